"""A secret of a target, from an operator to a connector on the host: a package with an entry point, real programs.

The connector is nginx's with a password beside it. What it was given it notes in a file; the coordinator's database,
its answers and all logs are searched for it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks.lab.fleet import APIError
from benchmarks.lab.processes import REPOSITORY, wait_until
from tests.coordinator.world import dump
from tests.journeys.stage import Journey, Stage

pytestmark = pytest.mark.slow
SITE, PASSWORD = "shop.example.test", "correct-horse-battery-staple"
PACKAGE = """
import os
from typing import Annotated
from connectors.targets.nginx import NginxConfig, NginxTarget
from core.marking import SECRET
from core.secret import Secret

class GuardedConfig(NginxConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    password: Annotated[Secret[str], SECRET]

class Guarded(NginxTarget):
    config_type = GuardedConfig
    def files(self, config, material):
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(config.password.reveal() + chr(10))
        return super().files(config, material)

TARGET = Guarded()
"""


def install(folder: Path) -> dict[str, str]:
    """Install the package beside the tree; return the environment that finds it."""
    information = folder / "guarded-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "guarded.py").write_text(PACKAGE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: guarded\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[certctl.targets]\nguarded = guarded:TARGET\n")
    return {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(folder)]), "NOTES": str(folder / "notes")}


def test_a_secret_is_read_by_its_own_agent_alone(stage: Stage, empty_database_url: str) -> None:
    environment = install(stage.folder / "package")
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url, **environment)
    server, journey = stage.nginx("web", SITE), Journey(coordinator)
    policy = server.policy().replace('type = "nginx"', 'type = "guarded"')
    one, two = (stage.agent(name, coordinator, policy, **environment) for name in ("one", "two"))
    (kind,) = [row for row in journey.api.get("/api/v1/target-types")["data"] if row["type"] == "guarded"]
    assert kind["secret_fields"] == ["password"]
    config = {**server.target_config(SITE), "password": PASSWORD}
    body = {"name": SITE, "type": "guarded", "agent_id": one.agent_id, "config": config}
    target = journey.api.post("/api/v1/targets", body)
    assert target["config"]["password"] == {"set": True}
    certificate_id = journey.want(SITE, target["id"])
    first = journey.served(server, SITE)
    journey.settled(certificate_id)
    notes = Path(environment["NOTES"])
    assert set(notes.read_text().splitlines()) == {PASSWORD}

    path = f"/api/v1/targets/{target['id']}"
    with pytest.raises(APIError) as refused:
        journey.api.call("PATCH", path, {"agent_id": two.agent_id})
    assert refused.value.status == 422
    assert [error["field"] for error in refused.value.problem["errors"]] == ["config.password"]
    notes.unlink()
    journey.api.call("PATCH", path, {"agent_id": two.agent_id, "config": {"password": PASSWORD}})
    journey.served(server, SITE, instead_of=first)
    journey.settled(certificate_id)
    assert set(notes.read_text().splitlines()) == {PASSWORD}

    journey.api.call("DELETE", f"/api/v1/agents/{one.agent_id}")
    wait_until("the retired agent ends", lambda: one.process.returncode() is not None)
    assert one.process.returncode() == 0
    everything = str(asyncio.run(dump(empty_database_url)))
    logs = "".join(process.log.read_text(errors="replace") for process in stage.processes)
    assert PASSWORD not in everything + logs
