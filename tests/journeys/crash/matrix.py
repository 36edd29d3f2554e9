"""Plays cells on several lanes at once, and keeps what came of each until its test asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import groupby
from pathlib import Path

from tests.journeys.crash import roads
from tests.journeys.crash.lane import Lane, lane
from tests.journeys.crash.points import Cell, Program
from tests.journeys.crash.reach import why_unreached
from tests.journeys.crash.subject import Subject
from tests.journeys.crash.verdict import problems
from tests.journeys.crash.watch import watching

LANES = 4
_QUIET_S = 25.0
"""Less than the loops' intervals: what has to be mended is mended by a wake-up or a start."""
_PRUNING = ("keystore.key_removed", "keystore.pruned")
Databases = Callable[[], AbstractContextManager[str]]


class Matrix:
    """Threads that take groups of cells – one certificate's – from a list, in its order."""

    def __init__(self, cells: Sequence[Cell], points: dict[str, Program], folder: Path, databases: Databases) -> None:
        self._points, self._folder, self._databases = points, folder, databases
        self._died: dict[Cell, Future[bool]] = {cell: Future() for cell in cells}
        groups = groupby(cells, key=lambda cell: (cell.point, cell.layout, cell.passing))
        self._groups: Iterator[list[Cell]] = iter([list(group) for _, group in groups])
        self._taking = threading.Lock()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"lane {number}", daemon=True)
            for number in range(min(LANES, len(cells)))
        ]
        for thread in self._threads:
            thread.start()

    def died(self, cell: Cell) -> bool:
        """Wait until a cell was played; say whether its program died. Raises what went wrong."""
        return self._died[cell].result()

    def end(self) -> None:
        """Play no further cell."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        group: list[Cell] = []
        while not self._over.is_set() and (group or (group := self._next())):
            try:
                with self._lane() as ground:
                    ground.begin()
                    while group and not self._over.is_set():
                        self._play_group(ground, group)
                        group = self._next()
            except Exception as error:  # noqa: BLE001 - a lane on which something went wrong is left for a new one
                self._died[group.pop(0)].set_exception(error)

    def _next(self) -> list[Cell]:
        with self._taking:
            return next(self._groups, [])

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        with ExitStack() as stack:
            dsn = stack.enter_context(self._databases())
            yield stack.enter_context(lane(self._folder, dsn))

    def _play_group(self, ground: Lane, group: list[Cell]) -> None:
        """Play cells on one certificate; what was played leaves the list."""
        if roads.is_beginning(group[0]):
            with self._lane() as fresh:
                fresh.begin(self._points[group[0].point], group[0].armed)
                died = play(fresh, None, group[0], Subject(fresh, group[0].layout))
            self._died[group.pop(0)].set_result(died)
        subject = Subject(ground, group[0].layout) if group else None
        while group and subject:
            cell = group[0]
            generations = roads.GENERATIONS if cell.point in _PRUNING else 1
            while cell.road != "first" and subject.requests < generations:
                ground.disarm()
                subject.ask()
                subject.arrives()
                _settle(ground, subject)
            died = play(ground, self._points[cell.point], cell, subject)
            self._died[group.pop(0)].set_result(died)
        if subject:
            ground.sites.drop(subject.name)


def play(ground: Lane, program: Program | None, cell: Cell, subject: Subject) -> bool:
    """Play one cell and judge it; say whether the program died.

    Without a ``program`` the lane itself was made with one armed, and its first certificate is all that is asked for.
    """
    log, old = ground.sites.log_size(), subject.seen().fingerprint if subject.created else subject.placeholder
    with watching(ground.sites.port, subject.name, subject.pair) as watch:
        if program is None:
            subject.ask()
        else:
            _go(ground, program, cell, subject, old)
        subject.arrives()
        if not why_unreached(cell):
            # The last points lie behind everything that can be waited for.
            ground.wait(f"a death at {cell.armed}", lambda: ground.deaths == 1)
        _settle(ground, subject)
    assert watch.problems == []
    assert watch.reads
    assert watch.seen <= {old, *subject.fingerprints()}
    assert ground.sites.complaints(log) == []
    return ground.deaths == 1


def _go(ground: Lane, program: Program, cell: Cell, subject: Subject, old: str) -> None:
    if cell.road == "undo":
        subject.mislead()
    roads.staging(cell)(ground, program, cell, subject)
    if cell.road == "undo":
        ground.wait("the undo is known and done", lambda: _is_back(subject, old))
        subject.heal()


def _is_back(subject: Subject, old: str) -> bool:
    """Say whether the old certificate is served and installed between two attempts at the new one."""
    undone = "version_id = (SELECT version_id FROM holders WHERE certificate_id = $1) AND undo = 'done'"
    between = "kind = 'deployment' AND state = 'Pending'"
    if not subject.jobs(undone) or not subject.jobs(between):
        return False
    journals = list((subject.lane.agent.state_dir / "journal").glob("*"))
    back = (subject.seen().fingerprint, subject.installed(), journals) == (old, old, [])
    return back and bool(subject.jobs(between))


def _settle(ground: Lane, subject: Subject) -> None:
    """Wait until nothing is wrong; what stays wrong is told."""
    wrong: list[str] = []

    def is_right() -> bool:
        wrong[:] = problems(subject)
        return not wrong

    ground.wait("the coordinator is ready", ground.is_ready)
    try:
        ground.wait("everything is right", is_right, _QUIET_S)
    except AssertionError as error:
        error.add_note("\n".join(wrong))
        raise
