"""A running coordinator held against the OpenAPI document that it serves, by schemathesis.

``make schemathesis`` looks for longer than the test does. What is switched off, and why, stands in
``schemathesis.toml`` beside this module.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import httpx

from benchmarks.lab.fleet import API, Coordinator
from benchmarks.lab.processes import stopped_at_the_end
from coordinator.database import driver
from coordinator.web.examples import BODIES
from tests.coordinator.world import ENCRYPTION_KEY, FakeAgent, World, bearer, done
from tests.postgres import running_server

CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = "admin-key-of-the-conformance-run"


class Examined(NamedTuple):
    """What came of it: schemathesis' exit code and words, and what the coordinator wrote."""

    code: int
    said: str
    log: str


def examine(dsn: str, folder: Path, *options: str) -> Examined:
    """Start a coordinator on a database of its own and let schemathesis call all of its operations."""
    settings = {
        "CERTCTL_DATABASE_URL": dsn,
        "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY,
        "CERTCTL_API_KEYS_NAMED": f"conformance:{KEY}:admin",
    }
    coordinator = Coordinator(folder, settings)
    with stopped_at_the_end([coordinator.process]):
        coordinator.start()
        with coordinator.api(KEY) as api, guesses_given_back(dsn):
            ran = _schemathesis(coordinator, *furnish(api, coordinator), options)
            # Whoever is not let in any more finds no faults either.
            api.get("/api/v1/auth/check")
    return Examined(ran.returncode, ran.stdout, coordinator.process.log.read_text(errors="replace"))


@contextlib.contextmanager
def guesses_given_back(dsn: str) -> Iterator[None]:
    """Let one address try as many wrong credentials as it likes: that limit has tests of its own, and hides others."""
    over = threading.Event()

    async def give_back() -> None:
        connection = await driver.connect(dsn, {})
        while not over.is_set():
            await connection.execute("DELETE FROM limit_buckets")
            await asyncio.sleep(0.02)
        await connection.close()

    giver = threading.Thread(target=asyncio.run, args=(give_back(),))
    giver.start()
    try:
        yield
    finally:
        over.set()
        giver.join()


def furnish(api: API, coordinator: Coordinator) -> tuple[FakeAgent, FakeAgent]:
    """Make what the document's examples name, so that these find it; return two agents with a session."""
    agent, other = asyncio.run(_agents(coordinator))
    api.post("/api/v1/teams", {"id": "team-web", "name": "Web"})
    api.post("/api/v1/owners", {"id": "o-ada", "name": "Ada", "team_id": "team-web"})
    api.post("/api/v1/agent-groups", {"id": "grp-edge", "name": "Edge", "match_os": "linux"})
    api.post("/api/v1/policies", {**BODIES["CreatePolicy"], "id": "pol-owner", "enforce": "warn"})
    api.post("/api/v1/targets", {**BODIES["CreateTarget"], "agent_id": agent.id})
    api.post("/api/v1/views", BODIES["CreateSavedView"])
    api.post("/api/v1/certificates", {"id": "mc-www", "common_name": "www.example.com", "target_ids": ["tgt-web"]})
    return agent, other


async def _agents(coordinator: Coordinator) -> tuple[FakeAgent, FakeAgent]:
    context = ssl.create_default_context(cafile=coordinator.ca_path)
    async with httpx.AsyncClient(base_url=coordinator.url, verify=context, trust_env=False) as http:
        world = cast("World", SimpleNamespace(http=http))
        pair = FakeAgent(world, "conformance"), FakeAgent(world, "other")
        for agent in pair:
            token = done(await http.post("/api/v1/enrollment-tokens", headers=bearer(KEY)))["token"]
            done(await agent.enroll(token))
            await agent.sign_in()
        return pair


def _schemathesis(coordinator: Coordinator, agent: FakeAgent, other: FakeAgent, options: tuple[str, ...]) -> Any:
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color", "run"]
    argv += [f"{coordinator.url}/api/v1/openapi.json", "--tls-verify", str(coordinator.ca_path), *options]
    secrets = {"CERTCTL_API_KEY": KEY, "CERTCTL_AGENT_ID": agent.id, "CERTCTL_AGENT_TOKEN": agent.token}
    secrets["CERTCTL_OTHER_AGENT_ID"] = other.id
    # It also writes into the working directory.
    return subprocess.run(
        argv, env={**os.environ, **secrets}, cwd=coordinator.folder, capture_output=True, text=True, check=False
    )


def main() -> int:
    """Examine a coordinator and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.coordinator.conformance")
    parser.add_argument("--seconds", type=int, default=600, help="how long to look (600)")
    parser.add_argument("--seed", type=int, default=1, help="of what is tried (1)")
    parser.add_argument("--examples", type=int, default=50, help="at most, of an operation and phase (50)")
    parser.add_argument("more", nargs="*", help="further options of schemathesis, after --")
    asked = parser.parse_args()
    options = [f"--max-time={asked.seconds}", f"--seed={asked.seed}", f"--max-examples={asked.examples}", *asked.more]
    with tempfile.TemporaryDirectory() as folder, running_server() as server, server.fresh_database() as dsn:
        examined = examine(dsn, Path(folder), *options)
    sys.stdout.write(examined.said)
    if examined.code:
        sys.stdout.write("".join(f"{line}\n" for line in examined.log.splitlines() if "request_failed" in line))
    return examined.code


if __name__ == "__main__":
    sys.exit(main())
