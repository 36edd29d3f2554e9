"""A fleet of simulated agents beside a coordinator: enrolled, given targets and certificates, watched, killed.

fleet = Fleet(folder, coordinator.url, coordinator.ca_path, api)
fleet.grow(["host-1", "host-2"])       enrolls them with a one-time token each, or all with one static token
fleet.start()
fleet.await_enrolled(60)
fleet.add_certificates()               a target and a certificate for each site of each agent
fleet.set_faults(Faults(loss=0.02))
fleet.kill(0); fleet.restart(0)
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from benchmarks.fleet import config as configuration
from benchmarks.fleet.config import AgentEntry, Config, Faults, site_names, target_config
from benchmarks.lab.fleet import API
from benchmarks.lab.processes import Process, wait_until

T = TypeVar("T")
_CALLERS = 8


class Fleet:
    """Agents in ``processes`` processes; agent number N lives in process N modulo ``processes``."""

    def __init__(
        self, folder: Path, coordinator: str, ca: Path, api: API, *, processes: int = 2, sites: int = 1
    ) -> None:
        self.folder = folder
        self.names: list[str] = []
        self._api = api
        self._ids: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.configs = [folder / f"process-{number}.json" for number in range(processes)]
        self._offsets = [0] * processes
        for path in self.configs:
            whole = Config(folder=str(folder), coordinator=coordinator, ca=str(ca), agents=(), sites=sites)
            configuration.write(path, whole)
        self.processes = [
            Process(
                f"agents {number}",
                [sys.executable, "-m", "benchmarks.fleet.process", str(path)],
                folder / f"process-{number}.log",
            )
            for number, path in enumerate(self.configs)
        ]

    def grow(self, names: Sequence[str], token: str = "") -> None:
        """Add agents, each with a one-time token unless there is a static one; running processes start them."""
        tokens = [token] * len(names) if token else self._in_parallel(self._one_time_token, names)
        entries = [AgentEntry(name, each) for name, each in zip(names, tokens, strict=True)]
        for number, path in enumerate(self.configs):
            mine = [
                entry for place, entry in enumerate(entries, len(self.names)) if place % len(self.configs) == number
            ]
            config = configuration.read(path)
            configuration.write(path, msgspec.structs.replace(config, agents=(*config.agents, *mine)))
        self.names += names
        self._hang_up()

    def start(self) -> None:
        """Start every process."""
        for number in range(len(self.processes)):
            self.restart(number)

    def stop(self) -> None:
        """End every process politely."""
        for process in self.processes:
            process.signal(signal.SIGTERM)
        for process in self.processes:
            process.stop()

    def kill(self, number: int) -> None:
        """End one process as a power cut would."""
        self.processes[number].kill()

    def restart(self, number: int) -> None:
        """Start a process, again or the first time, and wait until it takes signals; agents go on from their disks."""
        events = self.configs[number].with_suffix(".events")
        before = events.stat().st_size if events.exists() else 0

        def started() -> bool:
            return events.exists() and b'"event":"started"' in events.read_bytes()[before:]

        self.processes[number].start()
        self.processes[number].await_ready(started)

    def set_faults(self, faults: Faults, *numbers: int) -> None:
        """Let these faults hold in the processes with these numbers, or in all."""
        for number in numbers or range(len(self.configs)):
            path = self.configs[number]
            configuration.write(path, msgspec.structs.replace(configuration.read(path), faults=faults))
        self._hang_up()

    def await_enrolled(self, deadline_s: float) -> None:
        """Wait until every agent has an id; raise with the end of a process's output when one has ended."""

        def enrolled() -> bool:
            for process in self.processes:
                if not process.running():
                    message = f"{process.name} ended with {process.returncode()}:\n{process.tail()}"
                    raise RuntimeError(message)
            return len(self.agent_ids()) == len(self.names)

        wait_until(f"the enrollment of {len(self.names)} agents", enrolled, deadline_s, pause_s=0.1)

    def agent_ids(self) -> dict[str, str]:
        """Return the ids of the agents that are enrolled, by name."""
        for name in self.names:
            path = self.folder / name / "state" / "identity" / "agent-id"
            if name not in self._ids and path.exists():
                self._ids[name] = path.read_text().strip()
        return self._ids

    def served(self, name: str) -> dict[str, str]:
        """Return what an agent's simulated server serves: fingerprint by site."""
        path = self.folder / name / "served.json"
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}

    def add_certificates(self, names: Sequence[str] = (), **wish: Any) -> dict[str, str]:
        """Add a target and a certificate for each site of these agents, or of all; return certificate ids by site.

        ``wish`` goes into each request for a certificate, for instance ``lifetime_s``.
        """
        sites = configuration.read(self.configs[0]).sites
        wanted = [(name, site) for name in names or self.names for site in site_names(name, sites)]
        ids = self._in_parallel(lambda pair: self._add_certificate(*pair, wish), wanted)
        return {site: certificate_id for (_, site), certificate_id in zip(wanted, ids, strict=True)}

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what has happened since the last call; the processes' lines one after the other."""
        for number, path in enumerate(self.configs):
            file = path.with_suffix(".events")
            if not file.exists():
                continue
            with file.open("rb") as lines:
                lines.seek(self._offsets[number])
                new = lines.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offsets[number] += len(whole)
            yield from (msgspec.json.decode(line) for line in whole.splitlines())

    def _add_certificate(self, name: str, site: str, wish: dict[str, Any]) -> str:
        config = target_config(self.folder / name, site)
        target = {"name": site, "type": "files", "agent_id": self.agent_ids()[name], "config": config}
        target_id = self._api.create("/api/v1/targets", target)["id"]
        made = self._api.create("/api/v1/certificates", {"common_name": site, "target_ids": [target_id], **wish})
        return str(made["certificate"]["id"])

    def _one_time_token(self, _name: str) -> str:
        return str(self._api.post("/api/v1/enrollment-tokens", {})["token"])

    def _in_parallel(self, call: Callable[[T], str], items: Sequence[T]) -> list[str]:
        with ThreadPoolExecutor(_CALLERS) as pool:
            return list(pool.map(call, items))

    def _hang_up(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGHUP)
