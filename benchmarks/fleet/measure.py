"""What processes cost and what a coordinator counts, read from outside: ``/proc`` and its metrics."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

_TICKS = os.sysconf("SC_CLK_TCK")
_COUNTED = re.compile(r"^certctl_http_requests_total\{.*\} (\S+)$", re.MULTILINE)


def cpu_s(pids: list[int]) -> float:
    """Return the processor time that these processes have used."""
    return sum(map(_cpu_s, pids))


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    """Return the memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def running_in(folder: Path) -> list[int]:
    """Return the processes whose working folder this is: a PostgreSQL server's are all in its cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == folder:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@dataclass(frozen=True)
class Cost:
    """Shares of one core, in percent, and memory."""

    coordinator_cpu: float
    postgres_cpu: float
    rss_mb: float


def idle_cost(coordinator: int, cluster: Path, seconds: float) -> Cost:
    """Watch for some seconds what the coordinator and its database use."""
    database = running_in(cluster)
    started, before = time.monotonic(), (cpu_s([coordinator]), cpu_s(database))
    time.sleep(seconds)
    passed = time.monotonic() - started
    own, others = cpu_s([coordinator]) - before[0], cpu_s(database) - before[1]
    return Cost(own / passed * 100, others / passed * 100, rss_mb(coordinator))


@dataclass
class RequestRate:
    """Counts a coordinator's requests about every second, from ``start`` to ``stop``; ``peak`` is the most of one."""

    metrics_url: str
    peak: float = 0.0
    total: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> RequestRate:
        """Begin."""
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> RequestRate:
        """End."""
        self._over.set()
        assert self._thread is not None
        self._thread.join()
        return self

    def _count(self) -> None:
        last_at, last, over = time.monotonic(), 0.0, False
        with httpx.Client(trust_env=False, timeout=10) as http:
            while not over:
                over = self._over.wait(1.0)
                now = time.monotonic()
                with contextlib.suppress(httpx.HTTPError):
                    self.total = sum(float(number) for number in _COUNTED.findall(http.get(self.metrics_url).text))
                    if not over:  # the last piece may be too short to say anything of a second
                        self.peak = max(self.peak, (self.total - last) / (now - last_at))
                    last = self.total
                last_at = now
