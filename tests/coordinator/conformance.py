"""A running coordinator held against the OpenAPI document that it serves, by schemathesis.

``make schemathesis`` looks for longer than the test does. What is switched off, and why, stands in
``schemathesis.toml`` beside this module.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
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

from benchmarks.lab.fleet import Coordinator
from benchmarks.lab.processes import stopped_at_the_end
from coordinator.database import driver
from coordinator.web.examples import BODIES
from tests.coordinator.world import ENCRYPTION_KEY, FakeAgent, World, bearer, csr_for, done
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
            ran = _schemathesis(coordinator, asyncio.run(furnish(coordinator)), options)
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


class Furnished(NamedTuple):
    """Two agents with a session, and ids of what there is by the parameter that names it in a path."""

    agent: FakeAgent
    other: FakeAgent
    ids: dict[str, list[Any]]


async def furnish(coordinator: Coordinator) -> Furnished:
    """Make one of everything, under the ids that the document's examples have, so that these find it."""
    context = ssl.create_default_context(cafile=coordinator.ca_path)
    async with httpx.AsyncClient(base_url=coordinator.url, verify=context, trust_env=False) as http:

        async def post(path: str, **body: Any) -> Any:
            return done(await http.post(f"/api/v1/{path}", headers=bearer(KEY), json=body))

        async def ids(path: str, field: str = "id") -> list[Any]:
            page = done(await http.get(f"/api/v1/{path}", headers=bearer(KEY), params={"per_page": 9}))
            return [row[field] for row in page["data"]]

        world = cast("World", SimpleNamespace(http=http))
        agent, other = FakeAgent(world, "conformance"), FakeAgent(world, "other")
        for each in (agent, other):
            done(await each.enroll((await post("enrollment-tokens"))["token"]))
            await each.sign_in()
        await post("teams", id="team-web", name="Web")
        await post("owners", id="o-ada", name="Ada", team_id="team-web")
        await post("agent-groups", id="grp-edge", name="Edge", match_os="linux")
        await post("policies", **{**BODIES["CreatePolicy"], "id": "pol-owner", "enforce": "warn"})
        await post("targets", **{**BODIES["CreateTarget"], "agent_id": agent.id})
        await post("certificates", id="mc-www", common_name="www.example.com", target_ids=["tgt-web"])
        await agent.work()
        await post("profiles", id="prof-asks", name="asks", max_lifetime_s=86400, requires_approval=True)
        await post(
            "certificates", id="mc-asks", common_name="asks.example.com", agent_id=agent.id, profile_id="prof-asks"
        )
        item = await agent.item()
        done(await agent.submit(item, csr_for(item)))
        key = await post("api-keys", name="ci", role="viewer")
        view = await post("views", **BODIES["CreateSavedView"])
        begun = await post("certificates/bulk-renew", filter={"q": "nothing"}, dry_run=True)
        found = {
            "team_id": ["team-web"],
            "owner_id": ["o-ada"],
            "agent_group_id": ["grp-edge"],
            "policy_id": ["pol-owner"],
            "target_id": ["tgt-web"],
            "certificate_id": ["mc-www", "mc-asks"],
            "version_id": await ids("certificates/mc-www/versions"),
            "job_id": await ids("jobs"),
            "run_id": await ids("jobs", "run_id"),
            "approval_id": await ids("approvals"),
            "key_id": [key["id"]],
            "token_id": await ids("enrollment-tokens"),
            "view_id": [view["id"]],
            "operation_id": [begun["snapshot"]],
            "event_id": await ids("audit"),
            "profile_id": ["prof-default", "prof-asks"],
            "renewal_policy_id": ["rp-default"],
            "issuer_id": ["iss-local"],
            "loop_name": ["renewal_check"],
        }
        return Furnished(agent, other, found)


def _schemathesis(coordinator: Coordinator, furnished: Furnished, options: tuple[str, ...]) -> Any:
    argv = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(_config(coordinator, furnished)),
        "--no-color",
    ]
    argv += ["run", f"{coordinator.url}/api/v1/openapi.json", "--tls-verify", str(coordinator.ca_path), *options]
    agent, other = furnished.agent, furnished.other
    secrets = {"CERTCTL_API_KEY": KEY, "CERTCTL_AGENT_ID": agent.id, "CERTCTL_AGENT_TOKEN": agent.token}
    secrets["CERTCTL_OTHER_AGENT_ID"] = other.id
    # It also writes into the working directory.
    return subprocess.run(
        argv, env={**os.environ, **secrets}, cwd=coordinator.folder, capture_output=True, text=True, check=False
    )


def _config(coordinator: Coordinator, furnished: Furnished) -> Path:
    """Return the configuration with the ids that there are: half of the parameters are one of these."""
    lines = [CONFIG.read_text(encoding="utf-8")]
    for name, values in furnished.ids.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines += ["[parameters]"]
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.5 }}' for name in furnished.ids]
    path = coordinator.folder / "schemathesis.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


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
