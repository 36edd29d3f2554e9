"""A coordinator for tests: the real application on a real database, a clock that is moved by hand, and callers for it.

Nothing is replaced but the time and the network: requests enter through the ASGI interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from coordinator import settings as settings_module
from coordinator import start
from coordinator.app import create_app, create_pki_app
from coordinator.context import Context
from coordinator.database import driver
from coordinator.loops import service as loops
from coordinator.sessions import service as sessions
from coordinator.sessions.service import Person
from coordinator.settings import ROLES, Settings
from core import keys, wire
from core.certificates import read_certificate
from core.clock import ManualClock
from core.csr import build_csr
from core.identity import nonce_message, sign_report
from core.keys import KeyAlgorithm
from core.names import parse_name

GENEROUS = {"CERTCTL_RATE_LIMIT_RPS": "1000000", "CERTCTL_RATE_LIMIT_BURST": "1000000"}
"""Limits that are counted and never reached: tests ask faster than callers do."""
ENCRYPTION_KEY = "test-encryption-key-test-encryption-key"
KEYS = {role: f"{role}-key-of-the-tests" for role in ROLES}
"""One API key for each role, as CERTCTL_API_KEYS_NAMED gives them."""


def variables(database_url: str, data_dir: Path, **more: str) -> dict[str, str]:
    """Return the environment of a coordinator with one key per role."""
    return {
        "CERTCTL_DATABASE_URL": database_url,
        "CERTCTL_DATA_DIR": str(data_dir),
        "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY,
        "CERTCTL_API_KEYS_NAMED": ",".join(f"{role}:{key}:{role}" for role, key in KEYS.items()),
        "CERTCTL_PKI_URL": "http://pki.test",
        **GENEROUS,
        **more,
    }


class World:
    """A running coordinator and the means to call it."""

    def __init__(self, ctx: Context, clock: ManualClock, dsn: str) -> None:
        self.ctx = ctx
        self.clock = clock
        self.dsn = dsn
        self.http = httpx.AsyncClient(transport=transport_of(create_app(ctx)), base_url="https://certctl.test")
        self.pki = httpx.AsyncClient(transport=transport_of(create_pki_app(ctx)), base_url="http://pki.test")

    async def call(self, method: str, path: str, key: str = "admin", **options: Any) -> httpx.Response:
        """Send one request with a role's key, or with none when ``key`` is empty."""
        return await self.http.request(method, path, headers=bearer(KEYS[key]) if key else {}, **options)

    async def get(self, path: str, key: str = "admin", **query: Any) -> Any:
        """Return the JSON of a successful GET."""
        return done(await self.call("GET", path, key, params=query))

    async def post(self, path: str, body: Any = None, key: str = "admin") -> Any:
        """Return the JSON of a successful POST."""
        return done(await self.call("POST", path, key, json={} if body is None else body))

    async def value(self, sql: str, *arguments: object) -> Any:
        """Return one value from the database."""
        async with self.ctx.db.connection() as conn:
            return await conn.fetchval(sql, *arguments)

    async def rows(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        """Return rows from the database."""
        async with self.ctx.db.connection() as conn:
            return [dict(row.items()) for row in await conn.fetch(sql, *arguments)]

    async def execute(self, sql: str, *arguments: object) -> None:
        """Change the database behind the coordinator's back."""
        async with self.ctx.db.connection() as conn:
            await conn.execute(sql, *arguments)

    async def person(self, role: str, teams: tuple[str, ...] | None = None, subject: str = "ada") -> dict[str, str]:
        """Return the headers of a browser in which somebody has signed in, on a page of the coordinator."""
        person = Person("https://id.test", subject, subject.title(), f"{subject}@example.com", role, teams)
        async with self.ctx.db.transaction() as tx:
            value = (await sessions.begin(self.ctx, tx, person, None, "Browser/1", "req-test")).reveal()
        return {
            "Cookie": f"{sessions.COOKIE}={value}",
            sessions.CSRF_HEADER: sessions.csrf_token(value),
            "Origin": self.ctx.settings.url,
            "Sec-Fetch-Site": "same-origin",
        }

    async def agent(self, name: str = "web-1", token: str = "") -> FakeAgent:
        """Enroll an agent and give it a session."""
        agent = FakeAgent(self, name)
        token = token or (await self.post("/api/v1/enrollment-tokens"))["token"]
        done(await agent.enroll(token))
        await agent.sign_in()
        return agent

    async def target(self, agent: FakeAgent, name: str = "site") -> str:
        """Add an nginx target on an agent; return its id."""
        folder = f"/etc/nginx/{name}"
        config = {"cert_path": f"{folder}/site.pem", "key_path": f"{folder}/site.key", "probe": {"port": 443}}
        body = {"name": name, "type": "nginx", "agent_id": agent.id, "config": config}
        return str((await self.post("/api/v1/targets", body))["id"])

    async def certificate(self, **wish: Any) -> tuple[str, list[str]]:
        """Add a certificate; return its id and the jobs that this began."""
        made = await self.post("/api/v1/certificates", {"common_name": "www.example.com", **wish})
        return made["certificate"]["id"], made["job_ids"]


class FakeAgent:
    """The agent's half of the protocol, without a host behind it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.id = ""
        self.boot = f"boot{time.monotonic_ns():x}"
        self.token = ""
        self.signing = Ed25519PrivateKey.generate()
        self.sealing = X25519PrivateKey.generate()

    def enrollment(self, token: str, **changes: Any) -> dict[str, Any]:
        """Return the message of a first contact."""
        message = wire.Enrollment(
            token,
            self.name,
            self.signing.public_key().public_bytes_raw(),
            self.sealing.public_key().public_bytes_raw(),
            time.time_ns() // 1_000_000,
        )
        return {**msgspec.to_builtins(message), **changes}

    async def enroll(self, token: str, **changes: Any) -> httpx.Response:
        """Enroll; remember the id when that worked."""
        response = await self.world.http.post("/api/v1/agents", json=self.enrollment(token, **changes))
        if response.is_success:
            self.id = response.json()["agent_id"]
        return response

    async def token_request(self, signer: Ed25519PrivateKey | None = None) -> dict[str, Any]:
        """Ask for a nonce and sign it."""
        answer = done(await self.world.http.post(f"/api/v1/agents/{self.id}/nonce"))
        nonce = msgspec.convert(answer, wire.Nonce).nonce
        signature = (signer or self.signing).sign(nonce_message(self.id, nonce))
        builtins: dict[str, Any] = msgspec.to_builtins(wire.TokenRequest(nonce, signature))
        return builtins

    async def sign_in(self) -> None:
        """Get a bearer token."""
        body = await self.token_request()
        self.token = done(await self.world.http.post(f"/api/v1/agents/{self.id}/token", json=body))["token"]

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request under this agent's own path."""
        url = f"/api/v1/agents/{self.id}{path}"
        return await self.world.http.request(method, url, headers=bearer(self.token), **options)

    async def poll(
        self, held: tuple[str, ...] = (), wait: float = 0, boot: str = ""
    ) -> list[wire.IssuanceItem | wire.DeploymentItem]:
        """Return what a poll brings."""
        query = {"boot": boot or self.boot, "wait": wait, "held": ",".join(held)}
        return list(msgspec.convert(done(await self.call("GET", "/work", params=query)), wire.Work).items)

    async def item(self, **options: Any) -> Any:
        """Return the one thing that a poll brings."""
        (item,) = await self.poll(**options)
        return item

    async def submit(self, item: wire.IssuanceItem, csr: bytes, *, epoch: int | None = None) -> httpx.Response:
        """Submit a CSR for a job."""
        submission = wire.CSRSubmission(item.lease_epoch if epoch is None else epoch, csr)
        return await self.call("POST", f"/jobs/{item.job_id}/csr", json=msgspec.to_builtins(submission))

    async def issue(self, item: wire.IssuanceItem) -> wire.CSRAnswer:
        """Do an issuance job as it should be done."""
        return msgspec.convert(done(await self.submit(item, csr_for(item))), wire.CSRAnswer)

    def report_on(self, item: wire.DeploymentItem | wire.IssuanceItem, **changes: Any) -> wire.JobReport:
        """Return a report of success, or with ``changes`` another one."""
        shown = item.fingerprint if isinstance(item, wire.DeploymentItem) else ""
        fields = {"outcome": "served", "served_fingerprint": shown, **changes}
        return wire.JobReport(self.id, item.job_id, item.lease_epoch, **fields)

    async def report(self, job_id: str, report: wire.JobReport | bytes) -> httpx.Response:
        """Sign and send a report."""
        payload = report if isinstance(report, bytes) else msgspec.json.encode(report)
        signed = wire.SignedReport(payload, sign_report(self.signing, payload))
        return await self.call("POST", f"/jobs/{job_id}/result", json=msgspec.to_builtins(signed))

    async def serve(self, item: wire.DeploymentItem) -> None:
        """Do a deployment job as it should be done."""
        done(await self.report(item.job_id, self.report_on(item)))

    async def fail(self, item: wire.DeploymentItem | wire.IssuanceItem, cause: str = "nginx -t said no") -> None:
        """Report that a job failed."""
        failure = wire.Failure("validate", cause)
        report = self.report_on(item, outcome="failed", failure=failure, served_fingerprint="")
        done(await self.report(item.job_id, report))

    async def work(self) -> None:
        """Do everything there is to do."""
        while items := await self.poll():
            for item in items:
                if isinstance(item, wire.IssuanceItem):
                    await self.issue(item)
                else:
                    await self.serve(item)


def csr_for(item: wire.IssuanceItem, key: keys.PrivateKey | None = None) -> bytes:
    """Return a CSR for exactly what a job asks for."""
    return build_csr(key or keys.generate(KeyAlgorithm(item.key_algorithm)), item.common_name, item.names)


def csr_of(*names: str, key: keys.PrivateKey | None = None) -> bytes:
    """Return a CSR for these names, the first as its common name."""
    found = tuple(parse_name(name) for name in names)
    return build_csr(key or keys.generate(KeyAlgorithm.ECDSA_P256), names[0], found)


def spki_of(answer: wire.CSRAnswer) -> str:
    """Return the name of the key in an issued leaf."""
    return read_certificate(answer.chain[0]).spki_sha256


def bearer(credential: str) -> dict[str, str]:
    """Return the header that carries a credential."""
    return {"Authorization": f"Bearer {credential}"}


def done(response: httpx.Response) -> Any:
    """Return a successful answer's JSON."""
    assert response.is_success, f"{response.status_code}: {response.text}"
    return response.json()


def problem(response: httpx.Response, status: int, field: str = "") -> dict[str, Any]:
    """Return the problem document of a refused request, after checking its form and that it names ``field``."""
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    assert found["request_id"] == response.headers["x-request-id"]
    assert {"type", "title", "detail"} <= set(found)
    assert not field or field in [error["field"] for error in found["errors"]], found
    return found


def transport_of(app: Any) -> httpx.ASGITransport:
    """Return what lets requests enter an application directly."""
    return httpx.ASGITransport(app=app, raise_app_exceptions=True)


async def dump(dsn: str) -> dict[str, list[str]]:
    """Return every row of every table but those that a mere request may touch (sessions, nonces, limits, last seen)."""
    connection = await driver.connect(dsn, {})
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        touched = {"agent_nonces", "agent_sessions", "limit_buckets"}
        kept = [row["tablename"] for row in tables if row["tablename"] not in touched]
        found = {}
        for table in kept:
            rows = await connection.fetch(f"SELECT (to_jsonb(t) - 'last_seen_at')::text AS row FROM \"{table}\" AS t")
            found[table] = sorted(row["row"] for row in rows)
        return found
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def running(*worlds: World) -> AsyncIterator[None]:
    """Run the loops of some replicas."""
    tasks = [asyncio.create_task(loops.run(world.ctx)) for world in worlds]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def open_world(environment: Mapping[str, str], at: datetime | None = None) -> AsyncIterator[World]:
    """Open a coordinator for these settings; its clock stands at ``at``, or at the present second."""
    settings: Settings = settings_module.load(environment)
    clock = ManualClock(at or datetime.now(UTC).replace(microsecond=0))
    async with start.open_context(settings, clock) as ctx:
        world = World(ctx, clock, environment["CERTCTL_DATABASE_URL"])
        async with world.http, world.pki:
            yield world
