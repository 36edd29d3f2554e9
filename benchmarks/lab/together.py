"""Many certificates of one host, renewed in the same moment and looked at from outside until each is served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.fleet import API, Agent, Coordinator
from benchmarks.lab.processes import Process, free_ports, wait_until
from benchmarks.lab.servers import Nginx, toml_string
from benchmarks.lab.wire import look, wait_for_change

_PATIENCE_S = 120


@dataclass(frozen=True)
class Together:
    """What it took: seconds from the first request to the last sight, reloads of all services, the agent's memory."""

    certificates: int
    services: int
    seconds: float
    reloads: int
    agent_before_mb: float
    agent_peak_mb: float


def renew_together(
    folder: Path, processes: list[Process], coordinator: Coordinator, count: int, services: int
) -> Together:
    """Install ``count`` certificates in ``services`` nginx servers of one agent, then renew them all at once."""
    name = f"host-of-{services}"
    sites = [f"{name}-site-{number}.example.test" for number in range(count)]
    servers = [
        Nginx(f"{name}-web-{number}", folder / f"{name}-web-{number}", port, sites[number::services])
        for number, port in enumerate(free_ports(services))
    ]
    agent = Agent(name, folder / f"agent-{name}", coordinator, _policy(folder, servers))
    processes += [*(server.process for server in servers), agent.process]
    for server in servers:
        server.start()
    agent.start()
    api = coordinator.api()
    certificates = [_want(api, agent, server, site) for server in servers for site in server.sites]
    for certificate_id in certificates:
        wait_until("the first ones are served", lambda: _is_served(api, certificate_id), _PATIENCE_S)  # noqa: B023
    return _renew(api, servers, agent, certificates)


def _renew(api: API, servers: Sequence[Nginx], agent: Agent, certificates: Sequence[str]) -> Together:
    places = [(server.port, site) for server in servers for site in server.sites]
    old = {site: seen.fingerprint for port, site in places if (seen := look(port, site))}
    memory, reloads, asked = _memory_mb(agent), sum(map(_reloads, servers)), time.monotonic()
    for certificate_id in certificates:
        api.post(f"/api/v1/certificates/{certificate_id}/renew")
    for port, site in places:
        wait_for_change(port, site, old[site], deadline_s=_PATIENCE_S)
    seconds = time.monotonic() - asked
    took = sum(map(_reloads, servers)) - reloads
    return Together(len(certificates), len(servers), seconds, took, memory["VmRSS"], _memory_mb(agent)["VmHWM"])


def _policy(folder: Path, servers: Sequence[Nginx]) -> str:
    """Return one host's agent.toml for all of them."""
    tables = [server.policy().partition("\n\n")[2] for server in servers]
    return "\n".join([f"allowed_paths = [{toml_string(folder)}]", *tables])


def _want(api: API, agent: Agent, server: Nginx, site: str) -> str:
    target = {"name": site, "type": "nginx", "agent_id": agent.agent_id, "config": server.target_config(site)}
    target_id = api.post("/api/v1/targets", target)["id"]
    created = api.post("/api/v1/certificates", {"common_name": site, "target_ids": [target_id]})
    return str(created["certificate"]["id"])


def _is_served(api: API, certificate_id: str) -> bool:
    return bool(api.get(f"/api/v1/certificates/{certificate_id}")["status"]["service"] == "served")


def _reloads(server: Nginx) -> int:
    """Count nginx's reloads by its own log."""
    return (server.folder / "error.log").read_text().count(", reconfiguring")


def _memory_mb(agent: Agent) -> dict[str, float]:
    """Return what the agent's process holds now, and held at most."""
    lines = Path(f"/proc/{agent.process.pid}/status").read_text().splitlines()
    return {
        line.partition(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))
    }
