"""The engine at a remote place: a Secret on the double of a Kubernetes API server, read by what serves it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.deployment.records import Records
from agent.deployment.remote import RemoteJournal
from agent.policy import load_policy
from connectors.probes import tls
from connectors.probes.tls import Observation
from core.wire import TrialItem
from tests.agent.deployment.authority import Authority, Issued
from tests.agent.disk import Folder, recorded
from tests.peers.kubernetes.double import Double
from tests.peers.kubernetes.reader import Reader

pytestmark = pytest.mark.trio

NAMESPACE, SECRET = "shop", "tls"


class Place:
    """A host that may write one Secret, and who serves it."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.peer, self.authority, self.state = Double(folder), authority, folder / "state"
        self.reader: Reader | None = None
        self.peer.start()
        self.peer.add_namespace(NAMESPACE)
        kubeconfig = self.peer.kubeconfig(self.peer.grant(NAMESPACE, SECRET), folder / "kubeconfig")
        self.toml = folder / "agent.toml"
        self.toml.write_text(
            f'[services.kubernetes]\ntype = "kubernetes"\nconfig = "{kubeconfig}"\ncontext = "certctl"\n'
        )

    def deployer(self, **ports: Any) -> Deployer:
        return Deployer(self.state, load_policy(self.toml, required=True), **ports)

    def config(self, **more: Any) -> dict[str, Any]:
        return {"namespace": NAMESPACE, "secret_name": SECRET, **more}

    def served(self) -> dict[str, Any]:
        """Start to serve the Secret; return the configuration with a probe."""
        self.reader = Reader(self.peer, NAMESPACE, SECRET)
        self.reader.start()
        return self.config(probe={"port": self.reader.port, "timeout_s": 30})

    async def deploy(
        self, issued: Issued, config: dict[str, Any] | None = None, target_id: str = "tgt-web", **ports: Any
    ) -> DeploymentOutcome:
        item = issued.item(config or self.config(), target_type="kubernetes", target_id=target_id)
        return await self.deployer(**ports).deploy(item, issued.secret)

    def holds(self) -> bytes | None:
        """Return the certificates in the Secret."""
        stored = self.peer.read(NAMESPACE, SECRET)
        return base64.b64decode(stored["data"]["tls.crt"]) if stored else None

    def version(self) -> str:
        stored = self.peer.read(NAMESPACE, SECRET)
        assert stored is not None
        return str(stored["metadata"]["resourceVersion"])

    def journals(self) -> list[Path]:
        return list(self.state.glob("journal*/*"))

    def close(self) -> None:
        if self.reader:
            self.reader.stop()
        self.peer.stop()


@pytest.fixture
def place(tmp_path: Path, authority: Authority) -> Iterator[Place]:
    place = Place(tmp_path, authority)
    yield place
    place.close()


def steps(outcome: DeploymentOutcome) -> list[str]:
    return [step.name for step in outcome.steps]


async def test_what_nobody_looks_at_is_stored_and_not_served(place: Place) -> None:
    issued = place.authority.issue()
    outcome = await place.deploy(issued)
    assert (outcome.outcome, outcome.served_fingerprint) == ("stored", "")
    assert steps(outcome) == ["staged", "published", "checked"]
    assert place.holds() == issued.cert_pem
    version = place.version()
    again = await place.deploy(issued)
    assert (again.outcome, again.served_fingerprint, again.steps) == ("stored", "", ())
    assert place.version() == version
    assert place.journals() == []


async def test_what_was_seen_is_served(place: Place) -> None:
    config, issued = place.served(), place.authority.issue()
    outcome = await place.deploy(issued, config)
    assert (outcome.outcome, outcome.served_fingerprint) == ("served", issued.fingerprint)
    assert steps(outcome) == ["staged", "published", "checked", "served"]
    again = await place.deploy(issued, config)
    assert (again.outcome, again.served_fingerprint) == ("unchanged", issued.fingerprint)
    assert place.journals() == []


async def test_what_is_stored_and_read_late_is_served_without_a_write(place: Place) -> None:
    issued = place.authority.issue()
    await place.deploy(issued)
    version, config, looks = place.version(), place.served(), count()

    async def read_late(
        host: str, port: int, *, sni: str = "", timeout_s: float = 10.0, protocol: str = "tls"
    ) -> Observation:
        if next(looks) < 5:
            return Observation(b"", "0" * 64, "", 0.0)
        return await tls.probe(host, port, sni=sni, timeout_s=timeout_s)

    patient = config | {"probe": {**config["probe"], "timeout_s": 60}}
    assert (await place.deploy(issued, patient, probe=read_late)).outcome in {"served", "unchanged"}
    assert next(looks) > 5
    assert place.version() == version


async def test_what_is_not_served_is_undone(place: Place) -> None:
    config, first = place.served(), place.authority.issue()
    await place.deploy(first, config)
    assert place.reader is not None
    await trio.to_thread.run_sync(place.reader.stop)
    place.reader = None
    outcome = await place.deploy(place.authority.issue(), config | {"probe": {**config["probe"], "timeout_s": 0.3}})
    assert outcome.failure is not None
    assert (outcome.outcome, outcome.failure.step, outcome.undo) == ("failed", "served", "done")
    assert "was not served within 0.3 s" in outcome.failure.cause
    assert place.holds() == first.cert_pem
    assert place.journals() == []


async def test_an_undo_that_fails_is_made_up_for_at_the_start(place: Place) -> None:
    """The first Secret cannot be deleted for lack of the right; what stood there is kept in a private file."""
    place.peer.allow(NAMESPACE, SECRET, ["get", "create", "patch"])
    config = place.config(probe={"port": 9, "timeout_s": 0.3})
    outcome = await place.deploy(place.authority.issue(), config)
    assert outcome.failure is not None
    assert (outcome.outcome, outcome.undo) == ("failed", "failed")
    assert "THE UNDO FAILED" in outcome.failure.cause
    assert "cannot delete" in outcome.failure.cause
    (journal,) = place.journals()
    assert journal.stat().st_mode & 0o777 == 0o600
    (told,) = await place.deployer().repair()
    assert "could not be undone" in told
    place.peer.allow(NAMESPACE, SECRET)
    assert await place.deployer().repair() == [
        "tgt-web: an interrupted deployment was undone, the previous state is back"
    ]
    assert place.holds() is None
    assert place.journals() == []


async def test_a_new_attempt_undoes_the_interrupted_one_first(place: Place) -> None:
    place.peer.allow(NAMESPACE, SECRET, ["get", "create", "patch"])
    await place.deploy(place.authority.issue(), place.config(probe={"port": 9, "timeout_s": 0.3}))
    stored = place.peer.read(NAMESPACE, SECRET)
    assert stored is not None
    place.peer.allow(NAMESPACE, SECRET)
    issued = place.authority.issue()
    assert (await place.deploy(issued)).outcome == "stored"
    anew = place.peer.read(NAMESPACE, SECRET)
    assert anew is not None
    assert anew["metadata"]["uid"] != stored["metadata"]["uid"]
    assert place.holds() == issued.cert_pem


async def test_the_undo_leaves_what_somebody_else_wrote_since(place: Place) -> None:
    await place.deploy(place.authority.issue())
    theirs = base64.b64encode(b"THEIRS").decode()

    async def probe(*_: Any, **__: Any) -> Observation:
        place.peer.change(NAMESPACE, SECRET, "operator", data={"tls.crt": theirs})
        return Observation(b"", "0" * 64, "", 0.0)

    outcome = await place.deploy(
        place.authority.issue(), place.config(probe={"port": 9, "timeout_s": 0.3}), probe=probe
    )
    assert outcome.failure is not None
    assert outcome.undo == "not_needed"
    assert "was changed meanwhile by operator, and stays so" in outcome.failure.cause
    assert place.holds() == b"THEIRS"


async def test_two_targets_of_one_secret_wait_for_each_other(place: Place) -> None:
    """The second finds the first one's certificate in place, and neither notices the other in the middle."""
    issued, deployer, outcomes = place.authority.issue(), place.deployer(), list[DeploymentOutcome]()

    async def deploy(target_id: str) -> None:
        item = issued.item(place.config(), target_type="kubernetes", target_id=target_id)
        outcomes.append(await deployer.deploy(item, issued.secret))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(deploy, f"tgt-{number}")
    assert [outcome.outcome for outcome in outcomes] == ["stored"] * 3
    assert sorted(len(outcome.steps) for outcome in outcomes) == [0, 0, 3]


async def test_the_host_names_the_cluster(place: Place) -> None:
    place.toml.write_text("")
    outcome = await place.deploy(place.authority.issue())
    assert outcome.failure is not None
    assert 'name a kubeconfig: config = "/path" in the service\'s table of agent.toml' in outcome.failure.cause
    place.toml.write_text('allowed_target_types = ["nginx"]\n')
    refused = await place.deploy(place.authority.issue())
    assert refused.failure is not None
    assert "this host takes no targets of type 'kubernetes'" in refused.failure.cause


async def test_a_place_is_tried_without_a_change(place: Place) -> None:
    item = TrialItem("trl-1", "tgt-web", "kubernetes", place.config())
    report = await place.deployer().try_out(item)
    assert report.failure is None
    assert [step.name for step in report.steps] == ["looked", "reached"]
    assert place.holds() is None
    assert place.journals() == []
    place.peer.stop()
    away = await place.deployer().try_out(item)
    assert away.failure is not None
    assert (away.failure.step, away.failure.transient) == ("looked", True)


async def test_what_somebody_else_wrote_into_the_secret_is_found(place: Place) -> None:
    issued = place.authority.issue()
    assert (await place.deploy(issued)).outcome == "stored"
    deployer = place.deployer()
    installed = await deployer.installations.read("tgt-web")
    assert installed is not None
    found = await deployer.inspect(installed, issued.secret)
    assert found is not None
    assert found.state == "in place"
    await place.deploy(place.authority.issue(), target_id="tgt-other")
    found = await deployer.inspect(installed, issued.secret)
    assert found is not None
    assert (found.state, found.served_fingerprint) == ("changed", "")


async def test_a_delivery_that_is_forgotten_stays_so_after_a_power_cut(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its undo would otherwise come back at the next start, and with it the certificate of before."""
    (tmp_path / "state").mkdir()
    journals = Records(tmp_path / "state" / "journal-remote", RemoteJournal, "undo journal", "")
    item = authority.issue().item({})
    journals.write(item.target_id, RemoteJournal(item, b"before"))
    with recorded(tmp_path / "state", monkeypatch) as disk:
        journals.delete(item.target_id)
        disk.mark("forgotten")
    (folders,) = {dict(tree.entries)["journal-remote"] for tree, mark in disk.found.items() if mark == "forgotten"}
    assert isinstance(folders, Folder)
    assert folders.entries == ()
