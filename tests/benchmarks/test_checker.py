"""The checker finds nothing in a healthy world, and each thing that is planted in it by the rule that is for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checker import __main__ as program
from benchmarks.checker.rules import check
from benchmarks.checker.world import World, read
from benchmarks.fleet.lab import Fleet
from benchmarks.lab.fleet import API, Coordinator
from benchmarks.lab.processes import wait_until
from tests.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
AGENTS = ("host-1", "host-2")


class Scene:
    """Two agents whose certificates were issued and renewed once, all stopped; what a plant needs to know of it."""

    def __init__(self, url: str, states: list[Path], log: Path) -> None:
        self.url = url
        self.states = states
        self.log = log
        self.world = self.read()

    def read(self) -> World:
        return read(self.url, self.states, [self.log])


@pytest.fixture(scope="module")
def scene(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("checker")
    with postgres_server.fresh_database(migrated=False) as url:
        coordinator = Coordinator(folder / "coordinator", {"CERTCTL_DATABASE_URL": url})
        try:
            api = coordinator.start().api()
            fleet = Fleet(folder / "fleet", coordinator.url, coordinator.ca_path, api)
            fleet.grow(AGENTS)
            fleet.start()
            try:
                fleet.await_enrolled(30)
                ids = list(fleet.add_certificates().values())
                wait_until("all are served", lambda: settled(api, ids), 60)
                for certificate_id in ids:
                    api.post(f"/api/v1/certificates/{certificate_id}/renew")
                wait_until("all are renewed", lambda: settled(api, ids, generation=2), 60)
            finally:
                fleet.stop()
        finally:
            coordinator.close()
            coordinator.process.stop()
        yield Scene(url, [folder / "fleet" / name / "state" for name in AGENTS], coordinator.process.log)


def settled(api: API, ids: list[str], generation: int = 1) -> bool:
    for certificate_id in ids:
        if api.get(f"/api/v1/certificates/{certificate_id}")["status"]["service"] != "served":
            return False
        if len(api.get(f"/api/v1/certificates/{certificate_id}/versions")["data"]) != generation:
            return False
        if any(job["finished_at"] is None for job in api.get("/api/v1/jobs", certificate_id=certificate_id)["data"]):
            return False
    return True


def fired(world: World) -> set[str]:
    return {rule for rule, findings in check(world).items() if findings}


def test_a_healthy_world_has_no_findings(scene: Scene) -> None:
    assert not any(check(scene.world).values()), check(scene.world)
    assert len(scene.world.disks) == len(AGENTS)
    assert len(scene.world.signatures) == len(scene.world.rows("certificate_versions")) == 4


def first(world: World, table: str, **fits: Any) -> dict[str, Any]:
    return next(row for row in world.rows(table) if all(row[name] == value for name, value in fits.items()))


def _live_job(world: World) -> None:
    first(world, "jobs", kind="deployment").update(state="Running", finished_at=None)


def _second_version(world: World) -> None:
    request = copy.deepcopy(first(world, "issuance_requests"))
    version = {**first(world, "certificate_versions", id=request["version_id"]), "id": "cv-2", "fingerprint": "00"}
    world.tables["certificate_versions"].append(version)


def _twice_in_a_run(world: World) -> None:
    jobs = [row for row in world.rows("jobs") if row["kind"] == "issuance"]
    twins = [row for row in jobs if row["certificate_id"] == jobs[0]["certificate_id"]]
    twins[1]["run_id"] = twins[0]["run_id"]


def _unfinished_request(world: World) -> None:
    request = first(world, "issuance_requests")
    first(world, "jobs", id=request["job_id"])["state"] = "Failed"


def _unknown_signature(world: World) -> None:
    world.signatures.append({**world.signatures[0], "serial": "abc", "fingerprint": "abc"})


def _unsigned_version(world: World) -> None:
    world.signatures.pop()


def _serial_twice(world: World) -> None:
    one, other = world.rows("issuance_requests")[:2]
    first(world, "certificate_versions", id=other["version_id"])["serial"] = other["serial"] = one["serial"]
    for line in world.signatures:
        line["serial"] = one["serial"]


def _stranger_of_a_key(world: World) -> None:
    for agent_id, disk in world.disks.items():
        key = replace(disk.keys[0], name="ab", spki_sha256="ab")
        world.disks[agent_id] = replace(disk, keys=(*disk.keys, key))


def _key_under_a_wrong_name(world: World) -> None:
    (agent_id, disk), *_ = world.disks.items()
    newest = first(world, "certificate_versions", id=first(world, "holders", agent_id=agent_id)["version_id"])
    keys = [key if key.name == newest["spki_sha256"] else replace(key, spki_sha256="ab") for key in disk.keys]
    world.disks[agent_id] = replace(disk, keys=(*keys,))


def _lost_key(world: World) -> None:
    (agent_id, disk), *_ = world.disks.items()
    world.disks[agent_id] = replace(disk, keys=())


def _other_version_served(world: World) -> None:
    binding = first(world, "bindings")
    older = [row for row in world.rows("certificate_versions") if row["certificate_id"] == binding["certificate_id"]]
    old = min(older, key=lambda row: int(row["generation"]))["id"]
    binding["served_version_id"] = binding["desired_version_id"] = old
    first(world, "holders", certificate_id=binding["certificate_id"])["version_id"] = old


def _unserved_binding(world: World) -> None:
    first(world, "bindings")["served_version_id"] = None


def _overdue_holder(world: World) -> None:
    holder = first(world, "holders")
    holder["renew_at"] -= timedelta(days=4000)


def _epoch_off(world: World) -> None:
    first(world, "jobs")["lease_epoch"] += 1


def _lease_of_an_ended_job(world: World) -> None:
    job = first(world, "jobs", state="Completed")
    job["lease_until"] = job["finished_at"]


def _ended_twice(world: World) -> None:
    job = first(world, "jobs", state="Completed")
    job["timeline"].append({"step": "completed"})


def _event_lost(world: World) -> None:
    world.tables["audit_events"].remove(first(world, "audit_events", action="certificate.issued"))


def _event_twice(world: World) -> None:
    world.tables["audit_events"].append(first(world, "audit_events", action="deployment.served"))


def _leftover(world: World) -> None:
    (agent_id, disk), *_ = world.disks.items()
    world.disks[agent_id] = replace(disk, leftovers=(Path("journal/x.json"),))


PLANTS: dict[Callable[[World], None], set[str]] = {
    _live_job: {"jobs ended", "audit complete"},
    _second_version: {"one version per request", "signatures known", "audit complete"},
    _twice_in_a_run: {"one version per request"},
    _unfinished_request: {"one version per request", "audit complete"},
    _unknown_signature: {"signatures known"},
    _unsigned_version: {"signatures known"},
    _serial_twice: {"signatures known"},
    _stranger_of_a_key: {"keys owned"},
    _key_under_a_wrong_name: {"keys owned"},
    _lost_key: {"keys present"},
    _other_version_served: {"files served"},
    _unserved_binding: {"bindings satisfied"},
    _overdue_holder: {"bindings satisfied"},
    _epoch_off: {"leases consistent"},
    _lease_of_an_ended_job: {"leases consistent"},
    _ended_twice: {"leases consistent"},
    _event_lost: {"audit complete"},
    _event_twice: {"audit complete"},
    _leftover: {"nothing left behind"},
}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.lstrip("_"))
def test_what_is_planted_is_found(scene: Scene, plant: Callable[[World], None]) -> None:
    world = copy.deepcopy(scene.world)
    plant(world)
    assert fired(world) == PLANTS[plant]


@pytest.mark.parametrize(
    "file,rule",
    [
        ("live/{site}/.fullchain.tmp", "nothing left behind"),
        ("state/journal/tgt.json", "nothing left behind"),
        ("state/keys/{certificate}/" + "0" * 64, "keys owned"),
    ],
)
def test_a_file_that_should_not_be_there_is_found(scene: Scene, file: str, rule: str) -> None:
    state = scene.states[0]
    site, certificate = f"s1.{state.parent.name}.fleet.test", next(state.glob("keys/*")).name
    path = state.parent / file.format(site=site, certificate=certificate)
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    try:
        assert fired(scene.read()) == {rule}
    finally:
        path.unlink()


def test_a_pair_that_does_not_belong_together_is_found(scene: Scene) -> None:
    keys = [state.parent / "live" / f"s1.{state.parent.name}.fleet.test" / "privkey.pem" for state in scene.states]
    kept = keys[0].read_bytes()
    keys[0].write_bytes(keys[1].read_bytes())
    try:
        assert fired(scene.read()) == {"files served"}
    finally:
        keys[0].write_bytes(kept)


def test_the_program_tells_and_ends_with_one_on_findings(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["checker", "--database", scene.url, "--log", str(scene.log)]
    argv += [word for state in scene.states for word in ("--state", str(state))]
    monkeypatch.setattr("sys.argv", argv)
    assert program.main() == 0
    assert "signatures known              ok" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["checker", "--database", scene.url, "--json"])
    assert program.main() == 1
    assert "is in no log of signatures" in capsys.readouterr().out
