"""The kubernetes connector against an API server: a double everywhere, and the real one where it was built."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from connectors.kubernetes import Secrets, connect
from connectors.targets import registry
from connectors.targets.base import Delivery, Material, Service
from connectors.targets.kubernetes import TARGET, KubernetesConfig, TLSSecret
from core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotFound,
    Refused,
    Transient,
    Unauthenticated,
)
from core.secret import Secret
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.double import Double
from tests.peers.kubernetes.peer import VERBS, Peer, owners

SERVERS = [Double, *([cluster.Cluster] if cluster.is_built() else [])]
OLD, NEW = (
    Delivery("mc-shop", Material(b"LEAF %d\n" % n, b"CHAIN\n", Secret(b"KEY %d\n" % n), str(n) * 64)) for n in (1, 2)
)
NUMBERS = count(1)


@pytest.fixture(scope="module", params=SERVERS, ids=lambda kind: kind.__name__.lower())
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """An API server with a namespace ``shop``."""
    started: Peer = request.param(tmp_path_factory.mktemp("kubernetes"))
    try:
        started.start()
        started.add_namespace("shop")
        yield started
    finally:
        started.stop()


class Place:
    """A Secret's name of a test's own, and an account that may do what the documents say."""

    def __init__(self, peer: Peer, folder: Path, stack: AsyncExitStack, verbs: tuple[str, ...] = VERBS) -> None:
        self.stack = stack
        self.peer, self.name = peer, f"tls-{next(NUMBERS)}"
        self.kubeconfig = peer.kubeconfig(peer.grant("shop", self.name, verbs), folder / "kubeconfig")

    async def connect(
        self, context: str = "certctl", kubeconfig: Path | None = None, namespace: str = "shop"
    ) -> Secrets:
        secrets = await connect(str(kubeconfig or self.kubeconfig), context, namespace, self.name)
        return self.stack.enter_context(closing(secrets))

    async def reach(self, **config: Any) -> TLSSecret:
        """Reach it until the test ends."""
        service = Service(name="kubernetes", type="kubernetes", config=str(self.kubeconfig), context="certctl")
        settings = KubernetesConfig(namespace="shop", secret_name=self.name, **config)
        return await self.stack.enter_async_context(TARGET.reach(service, settings))

    async def deploy(self, delivery: Delivery | None = None, **config: Any) -> None:
        """Go through with it."""
        deployment = await self.reach(**config)
        await deployment.look(delivery or NEW)
        await deployment.stage()
        await deployment.publish()
        await deployment.check()

    def stored(self) -> dict[str, Any] | None:
        return self.peer.read("shop", self.name)

    def now(self) -> dict[str, Any]:
        """Return what is there, without what every write changes."""
        stored = self.stored()
        assert stored is not None
        metadata = {key: value for key, value in stored["metadata"].items() if key != "resourceVersion"}
        return {**stored, "metadata": metadata}

    def by_kubectl(self, **fields: Any) -> None:
        """Create the Secret as ``kubectl create secret tls`` would."""
        data = {"tls.crt": encoded(b"OLD LEAF"), "tls.key": encoded(b"OLD KEY")}
        fields = {"type": "kubernetes.io/tls", "data": data, **fields}
        self.peer.create("shop", self.name, "kubectl-create", **fields)

    def change(self, manager: str = "operator", **fields: Any) -> None:
        self.peer.change("shop", self.name, manager, **fields)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What is closed when a test ends."""
    async with AsyncExitStack() as entered:
        yield entered


@pytest.fixture
def place(peer: Peer, tmp_path: Path, stack: AsyncExitStack) -> Place:
    """A Secret that does not exist yet."""
    return Place(peer, tmp_path, stack)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def pair(stored: dict[str, Any] | None) -> list[bytes]:
    assert stored is not None
    return [base64.b64decode(stored["data"][key]) for key in ("tls.crt", "tls.key")]


@pytest.mark.anyio
async def test_a_secret_is_made_with_labels_and_annotations(place: Place) -> None:
    await place.deploy(labels={"shop.test/team": "web"})
    stored = place.stored()
    assert stored is not None
    assert stored["type"] == "kubernetes.io/tls"
    assert pair(stored) == [b"LEAF 2\nCHAIN\n", b"KEY 2\n"]
    assert stored["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "certctl", "shop.test/team": "web"}
    annotations = stored["metadata"]["annotations"]
    age = datetime.now(UTC) - datetime.fromisoformat(annotations.pop("certctl.io/deployed-at"))
    assert timedelta() <= age < timedelta(minutes=5)
    assert annotations == {"certctl.io/certificate-id": "mc-shop", "certctl.io/fingerprint": "2" * 64}


@pytest.mark.anyio
async def test_a_renewal_leaves_what_others_added(place: Place) -> None:
    await place.deploy(OLD, labels={"gone": "soon"})
    place.change(
        metadata={"labels": {"theirs": "yes"}, "annotations": {"theirs": "too"}}, data={"ca.crt": encoded(b"CA")}
    )
    await place.deploy(NEW)
    stored = place.stored()
    assert stored is not None
    assert pair(stored) == [b"LEAF 2\nCHAIN\n", b"KEY 2\n"]
    assert stored["data"]["ca.crt"] == encoded(b"CA")
    assert stored["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "certctl", "theirs": "yes"}
    assert stored["metadata"]["annotations"]["theirs"] == "too"
    assert owners(stored, "f:data", "f:tls.crt") == {"certctl"}
    assert owners(stored, "f:data", "f:ca.crt") == {"operator"}


@pytest.mark.anyio
async def test_what_is_in_place_is_complete(place: Place) -> None:
    await place.deploy(OLD)
    for delivery, config, complete in [
        (OLD, {}, True),
        (NEW, {}, False),
        (OLD, {"labels": {"another": "one"}}, False),
    ]:
        deployment = await place.reach(**config)
        await deployment.look(delivery)
        assert deployment.complete is complete


@pytest.mark.anyio
async def test_the_dry_run_changes_nothing(place: Place) -> None:
    deployment = await place.reach()
    await deployment.look(NEW)
    await deployment.stage()
    assert place.stored() is None


@pytest.mark.anyio
async def test_a_secret_of_somebody_else_is_a_conflict_that_names_the_manager(place: Place) -> None:
    place.by_kubectl()
    before = place.stored()
    deployment = await place.reach()
    await deployment.look(NEW)
    with pytest.raises(Conflict, match=r'data\.tls\.crt \(conflict with "kubectl-create".*force_conflicts'):
        await deployment.stage()
    assert place.stored() == before


@pytest.mark.anyio
async def test_force_conflicts_takes_over_certificate_and_key_alone(place: Place) -> None:
    place.by_kubectl(metadata={"labels": {"theirs": "yes"}})
    await place.deploy(force_conflicts=True)
    stored = place.stored()
    assert pair(stored) == [b"LEAF 2\nCHAIN\n", b"KEY 2\n"]
    assert stored is not None
    assert owners(stored, "f:data", "f:tls.crt") == {"certctl"}
    assert owners(stored, "f:metadata", "f:labels", "f:theirs") == {"kubectl-create"}


@pytest.mark.anyio
async def test_a_certificate_that_changes_in_between_is_noticed(place: Place) -> None:
    await place.deploy(OLD)
    deployment = await place.reach(force_conflicts=True)
    await deployment.look(NEW)
    place.change(data={"tls.crt": encoded(b"THEIRS")})
    with pytest.raises(Transient, match="was changed by operator while its new certificate was on its way"):
        await deployment.publish()
    assert pair(place.stored())[0] == b"THEIRS"


@pytest.mark.anyio
async def test_a_label_that_changes_in_between_is_none_of_our_business(place: Place) -> None:
    await place.deploy(OLD)
    deployment = await place.reach()
    await deployment.look(NEW)
    place.change(metadata={"labels": {"theirs": "yes"}})
    await deployment.publish()
    stored = place.stored()
    assert pair(stored)[0] == b"LEAF 2\nCHAIN\n"
    assert stored is not None
    assert stored["metadata"]["labels"]["theirs"] == "yes"


@pytest.mark.anyio
@pytest.mark.parametrize("force", [False, True])
async def test_a_secret_that_comes_up_in_between_is_noticed(place: Place, force: bool) -> None:
    deployment = await place.reach(force_conflicts=force)
    await deployment.look(NEW)
    place.by_kubectl()
    with pytest.raises(Transient, match="was changed by kubectl-create while"):
        await deployment.publish()
    assert pair(place.stored())[0] == b"OLD LEAF"


@pytest.mark.anyio
async def test_a_secret_that_goes_in_between_is_noticed(place: Place) -> None:
    await place.deploy(OLD)
    deployment = await place.reach()
    await deployment.look(NEW)
    place.peer.delete("shop", place.name)
    with pytest.raises(Transient, match="was deleted while"):
        await deployment.publish()
    assert place.stored() is None


@pytest.mark.anyio
async def test_a_secret_that_is_made_anew_in_between_is_noticed(place: Place) -> None:
    await place.deploy(OLD)
    deployment = await place.reach(force_conflicts=True)
    await deployment.look(NEW)
    place.peer.delete("shop", place.name)
    place.by_kubectl()
    with pytest.raises(Transient, match="was changed by kubectl-create while"):
        await deployment.publish()
    assert pair(place.stored())[0] == b"OLD LEAF"


@pytest.mark.anyio
async def test_a_first_secret_is_taken_back(place: Place) -> None:
    deployment = await place.reach()
    before = await deployment.look(NEW)
    await deployment.publish()
    assert await deployment.put_back(before) == ""
    assert place.stored() is None
    assert await deployment.put_back(before) == ""


@pytest.mark.anyio
async def test_a_renewal_is_taken_back(place: Place) -> None:
    await place.deploy(OLD, labels={"old": "label"})
    there = place.now()
    deployment = await place.reach(labels={"new": "label"})
    before = await deployment.look(NEW)
    await deployment.publish()
    assert await deployment.put_back(before) == ""
    now = place.now()
    for entry in (*there["metadata"]["managedFields"], *now["metadata"]["managedFields"]):
        del entry["time"]
    assert now == there


@pytest.mark.anyio
async def test_a_take_over_is_taken_back_with_who_owned_what(place: Place) -> None:
    place.by_kubectl(metadata={"labels": {"app.kubernetes.io/managed-by": "hand"}})
    there = place.now()
    deployment = await place.reach(force_conflicts=True)
    before = await deployment.look(NEW)
    await deployment.publish()
    assert await deployment.put_back(before) == ""
    assert place.now() == there


@pytest.mark.anyio
async def test_taking_back_leaves_what_others_did_since(place: Place) -> None:
    place.by_kubectl()
    deployment = await place.reach(force_conflicts=True)
    before = await deployment.look(NEW)
    await deployment.publish()
    place.change(metadata={"labels": {"theirs": "yes"}})
    assert await deployment.put_back(before) == ""
    stored = place.stored()
    assert pair(stored) == [b"OLD LEAF", b"OLD KEY"]
    assert stored is not None
    assert stored["metadata"]["labels"] == {"theirs": "yes"}
    assert owners(stored, "f:metadata", "f:labels", "f:theirs") == {"operator"}


@pytest.mark.anyio
async def test_a_later_certificate_of_somebody_else_stays(place: Place) -> None:
    await place.deploy(OLD)
    deployment = await place.reach()
    before = await deployment.look(NEW)
    await deployment.publish()
    place.change(data={"tls.crt": encoded(b"THEIRS")})
    assert "was changed meanwhile by operator, and stays so" in await deployment.put_back(before)
    assert pair(place.stored())[0] == b"THEIRS"
    place.peer.delete("shop", place.name)
    assert "was deleted meanwhile" in await deployment.put_back(before)
    assert place.stored() is None


@pytest.mark.anyio
async def test_what_was_never_written_is_not_taken_back(place: Place) -> None:
    await place.deploy(OLD)
    there = place.stored()
    deployment = await place.reach()
    assert await deployment.put_back(await deployment.look(NEW)) == ""
    assert place.stored() == there


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fields,problem",
    [
        ({"type": "Opaque"}, "is of type Opaque, which no Secret can change .* kubectl -n shop delete secret"),
        ({"immutable": True}, "is immutable"),
    ],
)
async def test_a_secret_that_cannot_change_is_refused(place: Place, fields: dict[str, Any], problem: str) -> None:
    place.by_kubectl(**fields)
    with pytest.raises(Refused, match=problem):
        await (await place.reach()).look(NEW)


@pytest.mark.anyio
@pytest.mark.parametrize("verbs", [("list",), ("get",), ("get", "patch")])
async def test_missing_rights_are_told_before_anything_changes(
    peer: Peer, tmp_path: Path, stack: AsyncExitStack, verbs: tuple[str, ...]
) -> None:
    place = Place(peer, tmp_path, stack, verbs)

    async def look_and_stage(deployment: TLSSecret) -> None:
        await deployment.look(NEW)
        await deployment.stage()

    with pytest.raises(Forbidden, match=r"its role needs get, create, patch and delete .* cannot (get|patch|create)"):
        await look_and_stage(await place.reach())
    assert place.stored() is None


@pytest.mark.anyio
async def test_an_unknown_token_is_told(place: Place) -> None:
    secrets = await place.connect("")
    with pytest.raises(Unauthenticated, match="does not take the credentials"):
        await secrets.read()


@pytest.mark.anyio
async def test_a_missing_namespace_is_told(place: Place, tmp_path: Path) -> None:
    kubeconfig = place.peer.kubeconfig(place.peer.admin_token, tmp_path / "admin")
    secrets = await place.connect(kubeconfig=kubeconfig, namespace="nowhere")
    deployment = TLSSecret(secrets, KubernetesConfig(namespace="nowhere", secret_name=place.name))
    await deployment.look(NEW)
    with pytest.raises(NotFound, match=r'does the namespace exist.*namespaces "nowhere" not found'):
        await deployment.stage()


@pytest.mark.anyio
async def test_a_server_that_cannot_be_verified_gets_nothing(place: Place, tmp_path: Path) -> None:
    other = Double(tmp_path)
    other.start()
    try:
        kubeconfig = other.kubeconfig("t", tmp_path / "k", **{"certificate-authority": str(place.peer.ca_path)})
        with pytest.raises(Transient, match="cannot be verified"):
            await (await place.connect(kubeconfig=kubeconfig)).read()
    finally:
        other.stop()


@pytest.mark.anyio
async def test_an_absent_server_is_transient(place: Place, tmp_path: Path) -> None:
    kubeconfig = place.peer.kubeconfig("t", tmp_path / "k", server="https://127.0.0.1:9")
    with pytest.raises(Transient, match="cannot be reached"):
        await (await place.connect(kubeconfig=kubeconfig)).read()


@pytest.mark.anyio
async def test_no_error_holds_a_key(place: Place) -> None:
    place.by_kubectl(data={"tls.crt": encoded(b"OLD LEAF"), "tls.key": encoded(b"VERY SECRET")})
    deployment = await place.reach()
    before = await deployment.look(NEW)
    with pytest.raises(Conflict) as caught:
        await deployment.stage()
    told = f"{caught.value!r} {caught.value.__cause__!r} {before!r} {deployment!r}"
    for secret in (b"VERY SECRET", b"KEY 2"):
        assert secret.decode() not in told
        assert encoded(secret) not in told


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "change,problem",
    [
        ({"server": "http://127.0.0.1:9"}, "was verified"),
        ({"insecure-skip-tls-verify": True}, "was verified"),
        ({"certificate-authority": "/nowhere.pem"}, "nowhere.pem"),
    ],
)
async def test_a_kubeconfig_that_protects_nothing_is_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    kubeconfig = Double(tmp_path).kubeconfig("t", tmp_path / "k", **change)
    with pytest.raises(Misconfigured, match=problem):
        await connect(str(kubeconfig), "certctl", "shop", "x")


@pytest.mark.anyio
async def test_a_kubeconfig_that_others_can_write_is_refused(tmp_path: Path) -> None:
    kubeconfig = Double(tmp_path).kubeconfig("t", tmp_path / "k")
    kubeconfig.chmod(0o620)
    with pytest.raises(Misconfigured, match=r"could have been changed by other users.*chmod go-w"):
        await connect(str(kubeconfig), "certctl", "shop", "x")


@pytest.mark.anyio
async def test_missing_credentials_are_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="outside of a cluster, name a kubeconfig"):
        await connect("", "", "shop", "x")
    with pytest.raises(Misconfigured, match="No such file"):
        await connect(str(tmp_path / "none"), "", "shop", "x")
    kubeconfig = Double(tmp_path).kubeconfig("t", tmp_path / "k")
    with pytest.raises(Misconfigured, match="object with name elsewhere in"):
        await connect(str(kubeconfig), "elsewhere", "shop", "x")


@pytest.mark.anyio
async def test_a_pod_uses_its_service_account(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text(json.loads(place.kubeconfig.read_text())["users"][0]["user"]["token"])
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(place.peer.ca_path))
    host, _, port = place.peer.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    pod = place.stack.enter_context(closing(await connect("", "", "shop", place.name)))
    assert await pod.read() is None


@pytest.mark.anyio
async def test_a_program_of_the_kubeconfig_signs_in(place: Place, tmp_path: Path) -> None:
    """As clouds do it (``exec``): the host's own file names the program."""
    config = json.loads(place.kubeconfig.read_text())
    token = config["users"][0]["user"].pop("token")
    status = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    (tmp_path / "answer.json").write_text(json.dumps(status))
    program = {"apiVersion": status["apiVersion"], "command": "/bin/cat", "args": [str(tmp_path / "answer.json")]}
    config["users"][0]["user"]["exec"] = program
    place.kubeconfig.write_text(json.dumps(config))
    assert await (await place.connect()).read() is None


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong,field",
    [
        ({"namespace": "Shop"}, "config.namespace"),
        ({"namespace": "a.b"}, "config.namespace"),
        ({"namespace": "a" * 64}, "config.namespace"),
        ({"secret_name": "-a"}, "config.secret_name"),
        ({"secret_name": "a..b"}, "config.secret_name"),
        ({"secret_name": "a/../b"}, "config.secret_name"),
        ({"secret_name": "a" * 254}, "config.secret_name"),
        ({"labels": {"a b": "c"}}, "config.labels"),
        ({"labels": {"a": "c d"}}, "config.labels"),
        ({"labels": {"a": "c" * 64}}, "config.labels"),
        ({"labels": {"certctl.io/x": "y"}}, "config.labels"),
        ({"labels": {"app.kubernetes.io/managed-by": "me"}}, "config.labels"),
        ({"kubeconfig_path": "/etc/k"}, "config.kubeconfig_path"),
    ],
)
def test_what_no_api_server_takes_is_refused(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        registry.decode_config("kubernetes", {"namespace": "shop", "secret_name": "tls", **wrong})
    assert caught.value.errors[0].field == field
