"""A coordinator and its agents, started as their own programs and spoken to over HTTPS as anybody would."""

from __future__ import annotations

import contextlib
import ssl
import uuid
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import httpx

from benchmarks.lab.processes import Process, free_ports

JSON: TypeAlias = Any
"""A decoded JSON document."""


UNREACHED_LIMITS = {"CERTCTL_RATE_LIMIT_RPS": "1000000", "CERTCTL_RATE_LIMIT_BURST": "1000000"}
"""One key and one address play a whole fleet here: requests are counted as ever, and never too many."""


class APIError(Exception):
    """The coordinator answered with a problem."""

    def __init__(self, status: int, problem: JSON) -> None:
        super().__init__(f"{status}: {problem.get('detail', problem)}")
        self.status = status
        self.problem = problem


class API:
    """A plain JSON client."""

    def __init__(self, url: str, key: str, ca: Path) -> None:
        context = ssl.create_default_context(cafile=ca)
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=url, verify=context, headers=headers, timeout=70, trust_env=False)

    def close(self) -> None:
        """Close its connections."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def call(
        self, method: str, path: str, body: JSON = None, headers: dict[str, str] | None = None, **query: JSON
    ) -> JSON:
        """Return the answer's JSON; raise ``APIError`` for a problem."""
        response = self.http.request(method, path, json=body, params=query or None, headers=headers)
        answer = response.json() if response.content else None
        if not response.is_success:
            raise APIError(response.status_code, answer)
        return answer

    def get(self, path: str, **query: JSON) -> JSON:
        """GET."""
        return self.call("GET", path, **query)

    def post(self, path: str, body: JSON = None) -> JSON:
        """POST."""
        return self.call("POST", path, body)

    def create(self, path: str, body: JSON) -> JSON:
        """POST what makes something once, however often the connection breaks on the way to it."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        for _ in range(2):
            with contextlib.suppress(httpx.TransportError):
                return self.call("POST", path, body, headers)
        return self.call("POST", path, body, headers)

    def follow(self, run_id: str, *, deadline_s: float = 60.0) -> JSON:
        """Follow a run to its end or its first failed attempt; return it."""
        seen, waited = 0, 0.0
        while True:
            run = self.get(f"/api/v1/runs/{run_id}", wait=10, seen=seen)
            if run["state"] != "running" or waited > deadline_s:
                return run
            waited += 10 if run["seen"] == seen else 0
            seen = run["seen"]


class Coordinator:
    """One coordinator process."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        port, pki_port, metrics_port = free_ports(3)
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}"
        self.pki_url = f"http://127.0.0.1:{pki_port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self.data_dir = folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            "CERTCTL_SERVER_PORT": str(port),
            "CERTCTL_PKI_PORT": str(pki_port),
            "CERTCTL_METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
            "CERTCTL_DATA_DIR": str(self.data_dir),
            "CERTCTL_LOG_FORMAT": "json",
            **UNREACHED_LIMITS,
            **(env or {}),
        }
        self._clients: list[API] = []
        self.process = Process.python("coordinator", "coordinator.main", folder / "coordinator.log", self.env)

    @property
    def ca_path(self) -> Path:
        """Return the root that its HTTPS chains to."""
        return self.data_dir / "tls" / "ca.crt"

    def start(self) -> Coordinator:
        """Start it and wait until it is ready."""
        self.process.start()
        self.process.await_ready(self._ready)
        return self

    def _ready(self) -> bool:
        if not self.ca_path.exists():
            return False
        try:
            context = ssl.create_default_context(cafile=self.ca_path)
            return httpx.get(f"{self.url}/ready", verify=context, timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def api(self, key: str = "") -> API:
        """Return a client with this key, by default the first admin's."""
        client = API(self.url, key or (self.data_dir / "admin.key").read_text().strip(), self.ca_path)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close every client that was made."""
        while self._clients:
            self._clients.pop().close()

    def enrollment_token(self) -> str:
        """Make a one-time token."""
        return str(self.api().post("/api/v1/enrollment-tokens", {})["token"])


class Home(Protocol):
    """What an agent has to know of its coordinator, whatever plays that part."""

    @property
    def url(self) -> str:
        """Where it is."""

    @property
    def ca_path(self) -> Path:
        """The root that its HTTPS chains to."""

    def enrollment_token(self) -> str:
        """Make a one-time token."""


class Agent:
    """One agent process with its own host policy."""

    def __init__(
        self, name: str, folder: Path, coordinator: Home, policy: str, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.folder = folder
        self.state_dir = folder / "state"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "agent.toml"
        config.write_text(policy)
        config.chmod(0o644)
        self.env = {
            "CERTCTL_SERVER_URL": coordinator.url,
            "CERTCTL_SERVER_CA_BUNDLE_PATH": str(coordinator.ca_path),
            "CERTCTL_AGENT_NAME": name,
            "CERTCTL_STATE_DIR": str(self.state_dir),
            "CERTCTL_AGENT_CONFIG": str(config),
            "CERTCTL_AGENT_LISTEN": "",
            "CERTCTL_LOG_FORMAT": "json",
            "CERTCTL_AGENT_BOOTSTRAP_TOKEN": coordinator.enrollment_token(),
            **(env or {}),
        }
        self.process = Process.python(f"agent {name}", "agent.main", folder / "agent.log", self.env)

    @property
    def agent_id(self) -> str:
        """Return the id that enrollment gave, or nothing before it."""
        path = self.state_dir / "identity" / "agent-id"
        return path.read_text().strip() if path.exists() else ""

    def start(self) -> Agent:
        """Start it and wait until it is enrolled."""
        self.process.start()
        self.process.await_ready(lambda: bool(self.agent_id))
        return self
