"""What one process of agents is told: a JSON file, read at the start and again on SIGHUP.

    {"folder": "/tmp/fleet", "coordinator": "https://127.0.0.1:8443", "ca": "/tmp/ca.crt", "sites": 2,
     "agents": [{"name": "host-1", "token": "<token>"}], "faults": {"delay_ms": 50, "loss": 0.01}}

On SIGHUP the faults change and agents that are new in the list are started; agents are never taken away.

On disk, agent NAME has ``FOLDER/NAME/state`` (a real agent's state folder), ``FOLDER/NAME/live/SITE/fullchain.pem`` and
``privkey.pem``, and ``FOLDER/NAME/served.json``: what its simulated server serves, fingerprint by site. Sites of an
agent are the names ``s1.NAME.fleet.test`` … ``sK.NAME.fleet.test``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

DOMAIN = "fleet.test"


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong around the agents of one process.

    ``delay_ms`` is the mean of a random delay, on each way. ``loss`` is the share of requests that never arrive,
    ``answer_loss`` that of answers that are lost after the coordinator has acted, ``drop`` that of exchanges whose
    connection is cut off in the middle of the answer. ``crash_per_minute`` agents of the process are abandoned at
    whatever they wait for and started again from their disk. ``slow_disk_ms`` is added to each flush.
    """

    delay_ms: float = 0.0
    loss: float = 0.0
    answer_loss: float = 0.0
    drop: float = 0.0
    clock_offset_s: float = 0.0
    slow_disk_ms: float = 0.0
    crash_per_minute: float = 0.0


class AgentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One agent: its name, and the token that it enrolls with unless it has done so."""

    name: str
    token: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process of agents."""

    folder: str
    coordinator: str
    ca: str
    agents: tuple[AgentEntry, ...]
    sites: int = 1
    faults: Faults = msgspec.field(default_factory=Faults)

    def home(self, name: str) -> Path:
        """Return an agent's folder."""
        return Path(self.folder, name)


def read(path: Path) -> Config:
    """Read a configuration."""
    return msgspec.json.decode(path.read_bytes(), type=Config)


def write(path: Path, config: Config) -> None:
    """Write a configuration whole, so that a process never reads half of one."""
    staged = path.with_name(f".{path.name}")
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    staged.replace(path)


def site_names(agent: str, count: int) -> list[str]:
    """Return the sites of an agent."""
    return [f"s{number}.{agent}.{DOMAIN}" for number in range(1, count + 1)]


def target_config(home: Path, site: str) -> dict[str, Any]:
    """Return the configuration of a target of type ``files`` for one site."""
    folder = home / "live" / site
    paths = {"cert_path": str(folder / "fullchain.pem"), "key_path": str(folder / "privkey.pem")}
    return {**paths, "probe": {"port": 443, "sni": site, "timeout_s": 10}}
