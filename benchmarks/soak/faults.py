"""The faults: each strikes somewhere at random, holds for a while and is mended."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet.config import Faults
from benchmarks.lab.postgres import thaw
from benchmarks.soak.estate import Estate
from benchmarks.soak.network import DATABASE

MOST_OFF_S = 55
Mend = Callable[[], object]


@dataclass(frozen=True)
class Struck:
    """A fault that holds: where, and what ends it."""

    kind: str
    where: str
    mend: Mend


class Trouble:
    """Chooses and strikes; ``random`` decides everything, so that a seed repeats a run's faults."""

    def __init__(self, estate: Estate, chance: random.Random, folder: Path) -> None:
        self._estate = estate
        self._chance = chance
        self._folder = folder
        self._kinds: list[Callable[[], Struck]] = [
            self._kill_coordinator,
            self._kill_agents,
            self._restart_postgres,
            self._crash_postgres,
            self._freeze_postgres,
            self._cut_coordinator,
            self._cut_from_database,
            self._cut_rack,
            self._fill_disk,
            self._jump_clock,
            self._jump_coordinators_clock,
            self._spoil_network,
        ]
        self._left: list[Callable[[], Struck]] = []

    def strike(self) -> Struck:
        """Strike with the next kind; each kind has its turn before one comes again."""
        if not self._left:
            self._left = self._chance.sample(self._kinds, len(self._kinds))
        return self._left.pop()()

    def revive(self) -> list[str]:
        """Start again what ended without being struck; say what it was."""
        return self._estate.revive()

    def _kill_coordinator(self) -> Struck:
        process = self._chance.choice(self._estate.coordinators)
        process.kill()
        return Struck("coordinator killed", process.name, process.start)

    def _kill_agents(self) -> Struck:
        number = self._chance.randrange(len(self._estate.fleet.processes))
        self._estate.fleet.kill(number)
        return Struck("agents killed", f"process {number}", lambda: self._estate.fleet.restart(number))

    def _restart_postgres(self) -> Struck:
        self._estate.postgres.process.stop()
        return Struck("PostgreSQL restarted", "fast", self._estate.postgres.start)

    def _crash_postgres(self) -> Struck:
        process = self._estate.postgres.process
        process.signal(signal.SIGQUIT)
        process.wait(20)
        return Struck("PostgreSQL crashed", "immediate", self._estate.postgres.start)

    def _freeze_postgres(self) -> Struck:
        pids = self._estate.postgres.freeze()
        return Struck("PostgreSQL frozen", f"{len(pids)} processes", lambda: thaw(pids))

    def _cut_coordinator(self) -> Struck:
        node = self._chance.choice(self._estate.nodes)
        node.cut()
        return Struck("network cut", node.name, node.mend)

    def _cut_from_database(self) -> Struck:
        node = self._chance.choice(self._estate.nodes)
        node.cut_from(DATABASE)
        return Struck("network cut", f"{node.name} and PostgreSQL", lambda: node.mend_to(DATABASE))

    def _cut_rack(self) -> Struck:
        node = self._chance.choice(self._estate.racks)
        node.cut()
        return Struck("network cut", node.name, node.mend)

    def _fill_disk(self) -> Struck:
        name = self._chance.choice(self._estate.small)
        filler = self._estate.fleet.folder / name / "filler"
        _fill(filler, leave=self._chance.choice((0, 4096, 16384)))
        return Struck("disk full", name, filler.unlink)

    def _jump_clock(self) -> Struck:
        number = self._chance.randrange(len(self._estate.fleet.processes))
        offset_s = self._chance.choice((-1, 1)) * self._chance.uniform(60, 90_000)
        return self._agents_with(Faults(clock_offset_s=offset_s), "clock jumped", f"process {number}", number)

    def _jump_coordinators_clock(self) -> Struck:
        # A coordinator refuses to start beside a database whose clock differs by more than a minute.
        number = self._chance.randrange(len(self._estate.clocks))
        offset_s = self._chance.choice((-1, 1)) * self._chance.randint(10, MOST_OFF_S)
        self._estate.clocks[number].set(offset_s)
        where = f"{self._estate.coordinators[number].name} by {offset_s:+d} s"
        return Struck("clock jumped", where, lambda: self._estate.clocks[number].set(0))

    def _spoil_network(self) -> Struck:
        bad = Faults(delay_ms=30, loss=0.05, answer_loss=0.05, drop=0.05, slow_disk_ms=5, crash_per_minute=120)
        number = self._chance.randrange(len(self._estate.fleet.processes))
        return self._agents_with(bad, "agents crash on a bad network", f"process {number}", number)

    def _agents_with(self, faults: Faults, kind: str, where: str, number: int) -> Struck:
        self._estate.fleet.set_faults(faults, number)
        return Struck(kind, where, lambda: self._estate.fleet.set_faults(Faults(), number))


def _fill(path: Path, *, leave: int) -> None:
    """Write until the disk is full, then give some of it back."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - leave))
