"""People who use a server while its certificate is renewed: on new connections, and on kept ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.journeys.targets.subject import Subject

_PAUSE_S = 0.01


@dataclass
class Visitors:
    """What they noticed so far; failures in their own words."""

    served: int = 0
    failed: list[str] = field(default_factory=list)


@contextmanager
def visiting(subject: Subject, *, kept: bool = False) -> Iterator[Visitors]:
    """Let one visitor come again and again until the end."""
    visitors, over = Visitors(), threading.Event()
    thread = threading.Thread(target=_keep_coming if kept else _come, args=(subject, visitors, over))
    with _kernel_set(subject.kernel):
        thread.start()
        try:
            yield visitors
        finally:
            over.set()
            thread.join()


@contextmanager
def _kernel_set(settings: Mapping[str, str]) -> Iterator[None]:
    """Have these settings below /proc/sys, and in the end those of before; needs root."""
    paths = {Path("/proc/sys") / name: value for name, value in settings.items()}
    before = {path: path.read_text() for path in paths}
    try:
        for path, value in paths.items():
            path.write_text(value)
        yield
    finally:
        for path, value in before.items():
            path.write_text(value)


def _come(subject: Subject, visitors: Visitors, over: threading.Event) -> None:
    while not over.wait(_PAUSE_S):
        _once(subject.visit, visitors)


def _keep_coming(subject: Subject, visitors: Visitors, over: threading.Event) -> None:
    """Come on one connection for as long as it lasts; what breaks it is one failure, and the next one is new."""
    while not over.is_set():
        with subject.kept() as again:
            while not over.wait(_PAUSE_S) and _once(again, visitors):
                pass


def _once(visit: Callable[[], None], visitors: Visitors) -> bool:
    try:
        visit()
    except Exception as error:  # noqa: BLE001 - whatever a client's library raises is a visitor who was not served
        visitors.failed.append(f"{type(error).__name__}: {error}")
        return False
    visitors.served += 1
    return True
