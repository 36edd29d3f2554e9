"""Child processes that never outlive their lab, and ports that are free."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_STOP_S = 20.0
_SLICES = 16
_SLICE = int(os.environ.get("PYTEST_XDIST_WORKER", f"gw{os.getpid()}").removeprefix("gw")) % _SLICES
_MINE = range(10_000, 32_000)[_SLICE::_SLICES]
_TURN = itertools.count(os.getpid())


def free_ports(count: int) -> list[int]:
    """Return TCP ports on 127.0.0.1 that nobody listens on; all different.

    They lie below those that the kernel gives to connections, go round, and those of some processes that run beside
    each other differ: until somebody listens on them nobody else takes them.
    """
    ports = list[int]()
    while len(ports) < count:
        port = _MINE[next(_TURN) % len(_MINE)]
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def wait_until(what: str, done: Callable[[], bool], deadline_s: float = 30.0, pause_s: float = 0.01) -> None:
    """Look every few milliseconds until ``done``; raise ``TimeoutError`` that says what did not happen."""
    deadline = time.monotonic() + deadline_s
    while not done():
        if time.monotonic() > deadline:
            message = f"{what}: not within {deadline_s:.0f} s"
            raise TimeoutError(message)
        time.sleep(pause_s)


class Process:
    """One child, its output in a file."""

    def __init__(self, name: str, argv: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.argv = argv
        self.log = log
        self._env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def python(cls, name: str, module: str, log: Path, env: dict[str, str]) -> Process:
        """Return a child that runs one of our programs with this interpreter."""
        return cls(name, [sys.executable, "-m", module], log, env)

    def set_variable(self, name: str, value: str | None) -> None:
        """Give the next start another value of an environment variable; None takes it away."""
        if value is None:
            self._env.pop(name, None)
        else:
            self._env[name] = value

    @property
    def pid(self) -> int:
        """Return the process id; the process must have been started."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> Process:
        """Start it, in a session of its own, so that a Ctrl-C reaches the lab alone."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(self.argv, stdout=log, stderr=log, env=self._env, start_new_session=True)
        return self

    def running(self) -> bool:
        """Say whether it runs."""
        return self._child is not None and self._child.poll() is None

    def returncode(self) -> int | None:
        """Return how it ended, or None while it runs."""
        return self._child.poll() if self._child else None

    def signal(self, number: int) -> None:
        """Send a signal."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def wait(self, deadline_s: float) -> int:
        """Wait until it has ended by itself; return its exit code, or raise ``TimeoutError``."""
        wait_until(f"the end of {self.name}", lambda: not self.running(), deadline_s)
        code = self.returncode()
        assert code is not None
        return code

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def stop(self) -> int | None:
        """End it politely, and by force when it does not listen; return its exit code."""
        self.signal(signal.SIGTERM)
        if self._child is None:
            return None
        try:
            return self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._child.returncode

    def tail(self, lines: int = 15) -> str:
        """Return the end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def await_ready(self, done: Callable[[], bool], deadline_s: float = 40.0) -> None:
        """Wait until ``done``; raise with the end of the output when it ends or stays silent."""

        def look() -> bool:
            if not self.running():
                message = f"{self.name} ended with {self.returncode()}:\n{self.tail()}"
                raise RuntimeError(message)
            return done()

        try:
            wait_until(self.name, look, deadline_s)
        except TimeoutError as error:
            message = f"{error}:\n{self.tail()}"
            raise TimeoutError(message) from error


@contextlib.contextmanager
def stopped_at_the_end(processes: list[Process]) -> Iterator[None]:
    """Stop every process of the list, newest first, whatever happens."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.stop()
