"""One process of agents: ``python -m benchmarks.fleet.process CONFIG.json``, until SIGTERM. See ``config``.

What happens to its agents is appended to ``CONFIG.events``, a JSON object in each line: ``at`` (Unix nanoseconds),
``event`` (started, connected, disconnected, received, crashed, repaired) and the event's own fields. A process that was
killed is started again with the same file, and its agents go on from their disks.
"""

from __future__ import annotations

import argparse
import fcntl
import random
import signal
import sys
import time
from pathlib import Path

import msgspec
import trio

from agent.trust import trust
from benchmarks.fleet import config as configuration
from benchmarks.fleet.agent import Host, Shared, settings_of
from benchmarks.fleet.config import AgentEntry, Config, Faults
from benchmarks.fleet.disk import slow_down
from core import logs

FINISH_S = 10.0
_TICK_S = 0.1


def main() -> int:
    """Run the agents that the file names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet.process", description=__doc__)
    parser.add_argument("config", type=Path)
    path = parser.parse_args().config
    logs.configure("error", "json")
    with path.with_suffix(".lock").open("wb") as lock, path.with_suffix(".events").open("ab", buffering=0) as events:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        trio.run(_Process(path, Events(events)).run)
    return 0


class Events:
    """The record of what happens."""

    def __init__(self, file: object) -> None:
        self._file = file

    def tell(self, event: str, **fields: object) -> None:
        """Append one line."""
        line = msgspec.json.encode({"at": time.time_ns(), "event": event, **fields})
        self._file.write(line + b"\n")  # type: ignore[attr-defined]  # an unbuffered binary file


class _Process:
    """The agents of one file."""

    def __init__(self, path: Path, events: Events) -> None:
        self._path = path
        self._events = events
        self._faults = Faults()
        self._hosts: dict[str, Host] = {}
        self._stopping = trio.Event()

    async def run(self) -> None:
        """Run until SIGTERM; then finish what is in hand, for some seconds at most."""
        config = configuration.read(self._path)
        self._take(config.faults)
        slow_down(self._faults)
        context = await trust(settings_of(AgentEntry("any"), config))
        shared = Shared(context, config.coordinator)
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                self._start(config, shared, nursery)
                self._events.tell("started", agents=len(self._hosts))
                nursery.start_soon(self._crash_some)
                async for number in signals:
                    if number != signal.SIGHUP:
                        break
                    config = configuration.read(self._path)
                    self._take(config.faults)
                    self._start(config, shared, nursery)
            self._stopping.set()
            nursery.cancel_scope.deadline = trio.current_time() + FINISH_S

    def _take(self, faults: Faults) -> None:
        """Let these faults hold from now on, wherever they are looked at."""
        for name in faults.__struct_fields__:
            setattr(self._faults, name, getattr(faults, name))

    def _start(self, config: Config, shared: Shared, nursery: trio.Nursery) -> None:
        for entry in config.agents:
            if entry.name not in self._hosts:
                self._hosts[entry.name] = host = Host(entry, config, self._faults, shared, self._events.tell)
                nursery.start_soon(host.run, self._stopping)

    async def _crash_some(self) -> None:
        """Crash agents at the rate of the moment, every second time one with work in hand if there is any."""
        while not self._stopping.is_set():
            with trio.move_on_after(_TICK_S):
                await self._stopping.wait()
            if random.random() < self._faults.crash_per_minute / 60 * _TICK_S:
                hosts = list(self._hosts.values())
                busy = [host for host in hosts if host.busy] if random.random() < 0.5 else []  # noqa: PLR2004
                random.choice(busy or hosts).crash()


if __name__ == "__main__":
    sys.exit(main())
