"""cert-manager on a real API server gets its certificates from two coordinators, as docs/acme-walkthroughs.md says.

Played where ``make peers-kubernetes`` and ``make peers-cert-manager`` have been run.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from benchmarks.lab.processes import free_ports, wait_until
from benchmarks.lab.wire import verified
from tests.connectors.issuers.acme.dns.bind import KEYS, Bind
from tests.journeys.acme.certctl import BOUND, OPEN, CertctlServer, serving
from tests.journeys.acme.ground import ground
from tests.journeys.acme.play import subject_names, verify
from tests.journeys.acme.walkthrough import DIRECTORY, blocks, filled, limits
from tests.peers.certmanager import controller
from tests.peers.certmanager.controller import CertManager, conditions
from tests.peers.kubernetes.cluster import Cluster
from tests.peers.kubernetes.ingress import Ingress

pytestmark = pytest.mark.timeout(300)
NAMESPACE = "shop"
ZONE = "@ IN NS ns\nns IN A 127.0.0.1\n"
TSIG = "hmac-sha256"


class Place(NamedTuple):
    """All that takes part."""

    server: CertctlServer
    names: Bind
    peer: Cluster
    manager: CertManager


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two coordinators, a DNS that takes updates, a cluster, and both of the page's issuers in it."""
    folder = tmp_path_factory.mktemp("cert-manager")
    names = Bind(folder / "bind", "127.0.0.1", free_ports(1)[0], {"example.com": ZONE})
    peer = Cluster(folder)
    where = f"{names.address}:{names.port}"
    manager = CertManager(peer, folder, where)
    try:
        names.start()
        peer.start()
        peer.add_namespace(NAMESPACE)
        manager.start()
        with ground(folder) as below:
            below.dns = where
            with serving(below) as server:
                trusting, proving = blocks("cert-manager")[:2]
                manager.apply(filled(trusting, words(server, BOUND)))
                updates = {
                    "192.0.2.53:53": where,
                    "TSIG_KEY": KEYS[TSIG],
                    "tsigKeyName: updates": f"tsigKeyName: {TSIG}",
                }
                manager.apply(filled(proving, {**words(server, OPEN), **updates}))
                yield Place(server, names, peer, manager)
    finally:
        manager.stop()
        peer.stop()
        names.process.stop()


def words(server: CertctlServer, profile_id: str) -> dict[str, object]:
    """Return what the page's own words stand for."""
    setting = server.lend_bound(profile_id, **limits())
    assert setting.eab is not None
    bundle = base64.b64encode(setting.ca_bundle.read_bytes()).decode()
    account = {"EAB_ID": setting.eab.kid, "EAB_HMAC_KEY": setting.eab.key}
    return {DIRECTORY: setting.directory_url, "CA_BUNDLE": bundle, **account}


def wanted(name: str, issuer: str, *names: str) -> str:
    """Return the page's Certificate under another name, by an issuer, for some names."""
    manifest = yaml.safe_load(blocks("cert-manager")[2])
    manifest["metadata"]["name"], manifest["spec"]["secretName"] = name, f"{name}-tls"
    manifest["spec"]["issuerRef"]["name"] = issuer
    manifest["spec"]["dnsNames"] = list(names)
    return yaml.safe_dump(manifest)


def held(place: Place, folder: Path, secret: str, *names: str) -> x509.Certificate:
    """See that a Secret holds a chain to certctl's root for these names, with its key; return the leaf."""
    stored = place.peer.read(NAMESPACE, secret)
    assert stored is not None
    assert stored["type"] == "kubernetes.io/tls"
    chain = x509.load_pem_x509_certificates(base64.b64decode(stored["data"]["tls.crt"]))
    ders = [each.public_bytes(Encoding.DER) for each in chain]
    assert sorted(subject_names(ders[0])) == sorted(names)
    verify(folder, ders, place.server.anchors_pem())
    key = load_pem_private_key(base64.b64decode(stored["data"]["tls.key"]), None)
    assert key.public_key() == chain[0].public_key()
    return chain[0]


def versions(place: Place, leaf: x509.Certificate) -> list[dict[str, Any]]:
    """Return the versions of the one certificate in certctl's inventory that has this one."""
    found = place.server.api.get("/api/v1/certificates", page_size=500)["data"]
    every = [place.server.api.get(f"/api/v1/certificates/{each['id']}/versions")["data"] for each in found]
    (mine,) = [some for some in every if f"{leaf.serial_number:x}" in {version["serial"] for version in some}]
    return list(mine)


def of_trust(place: Place, tmp_path: Path) -> None:
    """The page's Certificate, as it stands there; renewed at once it is another version of the same certificate."""
    names = ("shop.example.com", "www.shop.example.com")
    place.manager.await_issuer("certctl")
    place.manager.apply(blocks("cert-manager")[2])
    place.manager.await_revision(NAMESPACE, "shop", 1)
    first = held(place, tmp_path, "shop-tls", *names)
    assert len(versions(place, first)) == 1
    place.manager.renew(NAMESPACE, "shop")
    place.manager.await_revision(NAMESPACE, "shop", 2)
    second = held(place, tmp_path, "shop-tls", *names)
    assert second.serial_number != first.serial_number
    assert len(versions(place, second)) == 2


def of_proof(place: Place, tmp_path: Path) -> None:
    """A wildcard, by a record that cert-manager sets and takes away."""
    name = "*.shop.example.com"
    place.manager.await_issuer("certctl-dns")
    place.manager.apply(wanted("wild", "certctl-dns", name))
    place.manager.await_revision(NAMESPACE, "wild", 1)
    held(place, tmp_path, "wild-tls", name)
    wait_until("the record is gone", lambda: not place.names.records("_acme-challenge.shop.example.com"), 30)


def of_renewal_information(place: Place, tmp_path: Path) -> None:
    """It is told a window to renew in; when an operator hastens the renewal it is another, and it renews by itself."""
    name = "told.shop.example.com"
    place.manager.apply(wanted("told", "certctl", name))
    place.manager.await_revision(NAMESPACE, "told", 1)
    first = held(place, tmp_path, "told-tls", name)

    def window() -> dict[str, str]:
        acme = place.manager.certificate(NAMESPACE, "told")["status"].get("acme", {})
        return dict(acme.get("ari", {}).get("suggestedWindow", {}))

    wait_until("cert-manager has renewal information", lambda: window() != {}, 30)
    life = first.not_valid_after_utc - first.not_valid_before_utc
    assert window()["start"] > f"{first.not_valid_before_utc + life / 2:%Y-%m-%dT%H:%M:%SZ}"
    place.server.hasten([first.public_bytes(Encoding.DER)])
    place.manager.ask_now(NAMESPACE, "told")
    place.manager.await_revision(NAMESPACE, "told", 2)
    assert held(place, tmp_path, "told-tls", name).serial_number != first.serial_number


def of_refusal(place: Place) -> None:
    """Names that the external account's key does not allow: certctl's words stand in the Certificate."""
    place.manager.await_issuer("certctl")
    place.manager.apply(wanted("other", "certctl", "www.example.com"))

    def told() -> str:
        return conditions(place.manager.certificate(NAMESPACE, "other")).get("Issuing", "")

    refusal = "www.example.com is not among the names that the external account key"
    place.manager.await_(lambda: refusal in told())
    assert place.peer.read(NAMESPACE, "other-tls") is None


def of_approval(place: Place, tmp_path: Path) -> None:
    """A profile that asks for approvals: cert-manager waits for somebody else's word, and for no longer."""
    api, name = place.server.api, "asked.shop.example.com"
    rules = {"max_lifetime_s": 86_400, "key_algorithms": ["rsa-2048"], "requires_approval": True}
    api.post("/api/v1/profiles", {"id": "prof-asking", "name": "asking", **rules})
    trusting = blocks("cert-manager")[0].replace("certctl-", "asking-").replace("{name: certctl}", "{name: asking}")
    place.manager.apply(filled(trusting, words(place.server, "prof-asking")))
    place.manager.await_issuer("asking")
    place.manager.apply(wanted("asked", "asking", name))
    place.manager.await_(lambda: api.get("/api/v1/approvals", state="pending")["data"] != [])
    assert place.peer.read(NAMESPACE, "asked-tls") is None
    (asked,) = api.get("/api/v1/approvals", state="pending")["data"]
    key = api.create("/api/v1/api-keys", {"name": "another", "role": "approver"})["key"]
    place.server.replicas[1].api(key).post(f"/api/v1/approvals/{asked['id']}/approve", {})
    place.manager.await_revision(NAMESPACE, "asked", 1)
    held(place, tmp_path, "asked-tls", name)


def of_ingress(place: Place, tmp_path: Path) -> None:
    """An annotated Ingress gets its certificate by itself, and Traefik, its controller, serves it."""
    name = "front.shop.example.com"
    issuer = {"cert-manager.io/cluster-issuer": "certctl"}
    ingress = Ingress(place.peer, NAMESPACE, "front-tls", name, tmp_path, issuer)
    try:
        ingress.start()
        leaf = held(place, tmp_path, "front-tls", name)
        assert verified(ingress.port, name, place.server.anchors_pem()).serial == f"{leaf.serial_number:x}"
    finally:
        ingress.stop()


if controller.is_built():
    test_accounts_that_are_trusted_get_and_renew_certificates = of_trust
    test_names_are_proved_in_the_dns = of_proof
    test_renewal_information_is_followed = of_renewal_information
    test_a_refusal_is_told_in_the_cluster = of_refusal
    test_approvals_are_waited_for = of_approval
    test_an_ingress_is_served_with_its_certificate = of_ingress
