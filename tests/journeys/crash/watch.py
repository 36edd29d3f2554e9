"""Somebody who never looks away: reads the installed files and asks the server all the time a cell is played."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.lab.wire import look
from tests.journeys.crash.sites import is_pair

_BETWEEN_READS_S = 0.002
_READS_BETWEEN_LOOKS = 25


class Watch(threading.Thread):
    """Collects ``problems``, and every fingerprint that was ever ``seen`` on the wire."""

    def __init__(self, port: int, name: str, files: tuple[Path, ...]) -> None:
        super().__init__(name=f"watch {name}", daemon=True)
        self._port, self._name, self._files = port, name, files
        self._ended = threading.Event()
        self._last: tuple[bytes, ...] = ()
        self.reads = 0
        self.problems: list[str] = []
        self.seen: set[str] = set()

    def run(self) -> None:
        """Look until the end."""
        while not self._ended.wait(_BETWEEN_READS_S):
            if self._files:
                self._read()
            if self.reads % _READS_BETWEEN_LOOKS == 0:
                self._ask()
            self.reads += 1

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join()

    def _read(self) -> None:
        """Judge what a reader sees; two files are read as of one moment, or again."""
        try:
            first = self._files[0].read_bytes()
            contents = (first, *(path.read_bytes() for path in self._files[1:]))
            if contents == self._last or self._files[0].read_bytes() != first:
                return
        except FileNotFoundError as error:
            self.problems.append(f"{error.filename} was gone")
            return
        self._last = contents
        if not is_pair(contents[0], contents[-1]):
            self.problems.append(f"{self._files} showed no complete pair")

    def _ask(self) -> None:
        found = look(self._port, self._name) or look(self._port, self._name)
        if found is None:
            self.problems.append(f"nothing answered for {self._name}")
        else:
            self.seen.add(found.fingerprint)


@contextmanager
def watching(port: int, name: str, files: tuple[Path, ...]) -> Iterator[Watch]:
    """Watch while the block runs; ``files`` are certificate and key, or one file with both, or nothing."""
    watch = Watch(port, name, files)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()
