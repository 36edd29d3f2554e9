"""Private keys are made by the agent and stay there: nobody else ever holds a byte of them.

The agent speaks to the coordinator through a proxy that ends TLS and keeps everything. After certificates with several
kinds of key were issued, deployed and renewed, every private key that the agent has, its own identity's included, is
looked for in that traffic, in a dump of the whole database, in every file of the coordinator's data folder, the
write-ahead log included, and in what programs wrote to logs, command lines, environments and the audit trail.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

from benchmarks.lab.fleet import Agent, Coordinator
from benchmarks.lab.postgres import packaged_program
from benchmarks.lab.servers import toml_string
from core.keys import KeyAlgorithm
from tests.journeys.listener import listening
from tests.journeys.needles import AnyKey, Haystack, Needle, documents, inner_base64, needles_of
from tests.journeys.stage import Journey, Stage, recording_nginx
from tests.journeys.wiretap import Wiretap

pytestmark = pytest.mark.timeout(300)
ALGORITHMS = [KeyAlgorithm(name) for name in ("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072")]


def test_no_private_key_is_ever_seen_outside_of_its_agent(stage: Stage) -> None:
    """Everything that left the agent and everything that the coordinator keeps, searched for every private key."""
    coordinator = stage.coordinator()
    sites = {f"{algorithm}.example.test": algorithm for algorithm in ALGORITHMS}
    server = stage.nginx("web", *sites)
    program, notes = recording_nginx(stage.folder, server.process.argv[0])
    policy = server.policy().replace(toml_string(server.process.argv[0]), toml_string(program))
    with listening(Wiretap(stage.folder / "tap", coordinator)) as tap, _watched_processes() as command_lines:
        through = {"CERTCTL_SERVER_URL": tap.url, "CERTCTL_SERVER_CA_BUNDLE_PATH": str(tap.ca_path)}
        agent = stage.agent("edge", coordinator, policy, **through, CERTCTL_LOG_LEVEL="debug")
        journey = Journey(coordinator)
        journey.api.post("/api/v1/profiles", _profile())
        certificates = {}
        for site, algorithm in sites.items():
            target_id = journey.target(agent, server, site)
            certificates[site] = journey.want(site, target_id, profile_id="prof-all", key_algorithm=algorithm)
        first = {site: journey.served(server, site) for site in sites}
        for site in sites:
            journey.settled(certificates[site])
            journey.renew(certificates[site])
        for site in sites:
            journey.served(server, site, instead_of=first[site])
            journey.settled(certificates[site])
        traffic = bytes(tap.sent + tap.received)
        _the_tap_has_heard_everything(tap, journey, list(certificates.values()))
        audit = json.dumps(_whole_audit_trail(journey)).encode()
        dump = _dump(coordinator)
        assert agent.process.stop() == 0

    needles = [needle for name, key in _private_keys(agent).items() for needle in needles_of(name, key)]
    assert len(_private_keys(agent)) == 2 * len(sites) + 2
    _the_search_finds_what_is_there(traffic, dump, journey, certificates)
    heaps = {
        "traffic": traffic,
        "dump": dump,
        "data folder": _every_file(coordinator.data_dir),
        "coordinator's log": coordinator.process.log.read_bytes(),
        "agent's log": agent.process.log.read_bytes(),
        "commands": notes.read_bytes(),
        "command lines": b"\n".join(command_lines),
        "audit": audit,
    }
    assert coordinator.process.stop() == 0
    heaps["data folder after the stop"] = _every_file(coordinator.data_dir)
    assert {where: Haystack(heap).find(needles) for where, heap in heaps.items()} == {where: [] for where in heaps}
    _no_credential_is_written_down(traffic, agent, coordinator, heaps)


def _profile() -> dict[str, object]:
    return {"id": "prof-all", "name": "all", "max_lifetime_s": 86400, "key_algorithms": ALGORITHMS}


def _private_keys(agent: Agent) -> dict[str, AnyKey]:
    """Return every private key of an agent by its file's name."""
    keys: dict[str, AnyKey] = {
        "signing": ed25519.Ed25519PrivateKey.from_private_bytes(_identity(agent, "signing")),
        "sealing": x25519.X25519PrivateKey.from_private_bytes(_identity(agent, "sealing")),
    }
    for path in agent.state_dir.glob("keys/*/*"):
        if re.fullmatch("[0-9a-f]{64}", path.name):
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)
            keys[path.name[:8]] = key
    return keys


def _identity(agent: Agent, name: str) -> bytes:
    return (agent.state_dir / "identity" / f"{name}.key").read_bytes()


def _the_tap_has_heard_everything(tap: Wiretap, journey: Journey, certificate_ids: list[str]) -> None:
    """See in the recorded bytes the requests that matter, in plain text."""
    jobs = [job for each in certificate_ids for job in journey.api.get("/api/v1/jobs", certificate_id=each)["data"]]
    assert len(jobs) == 4 * len(certificate_ids)
    for job in jobs:
        last = "csr" if job["kind"] == "issuance" else "result"
        assert f"/jobs/{job['id']}/{last} HTTP/1.1".encode() in tap.sent


def _whole_audit_trail(journey: Journey) -> list[object]:
    events: list[object] = []
    cursor: str | None = ""
    while cursor is not None:
        page = journey.api.get("/api/v1/audit", page_size=500, **({"cursor": cursor} if cursor else {}))
        events += page["data"]
        cursor = page["next_cursor"]
    assert events
    return events


def _dump(coordinator: Coordinator) -> bytes:
    """Return all of the embedded database; its socket's folder is named by the server's own file."""
    socket_folder = (coordinator.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[4]
    argv = [packaged_program("pg_dump"), "-h", socket_folder, "-U", "certctl", "certctl"]
    return subprocess.run(argv, capture_output=True, check=True).stdout


def _every_file(folder: Path) -> bytes:
    """Return the bytes of every file below a folder, pages of zeros left out."""
    page = 1 << 13
    heap = bytearray()
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a running database renames and removes files
            if path.is_file():
                data = path.read_bytes()
                pages = (data[start : start + page] for start in range(0, len(data), page))
                heap += b"".join(each for each in pages if each.strip(b"\0"))
    assert len(heap) > 1 << 20
    return bytes(heap)


def _the_search_finds_what_is_there(
    traffic: bytes, dump: bytes, journey: Journey, certificates: dict[str, str]
) -> None:
    """Look for public keys, which must have travelled and are stored, in the way private ones are looked for."""
    for certificate_id in certificates.values():
        for version in journey.versions(certificate_id):
            leaf = x509.load_pem_x509_certificate(version["pem"].encode())
            point = leaf.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )[-32:]
            for heap in (traffic, dump):
                forms = [point.hex().encode(), *(inner_base64(point, alignment) for alignment in range(3))]
                assert Haystack(heap).find([Needle("public", form, text=True) for form in forms])


def _no_credential_is_written_down(
    traffic: bytes, agent: Agent, coordinator: Coordinator, heaps: dict[str, bytes]
) -> None:
    """Bearer tokens, enrollment tokens and API keys are in no log, no command line, no audit row and no file."""
    bearers = set(re.findall(rb"[Aa]uthorization: Bearer (\S+)", traffic))
    assert bearers
    enrollment = agent.env["CERTCTL_AGENT_BOOTSTRAP_TOKEN"].encode()
    assert enrollment in traffic
    admin = (coordinator.data_dir / "admin.key").read_bytes().strip()
    kept = {**heaps, "data folder": heaps["data folder"].replace(admin, b"", 1)}
    kept["data folder after the stop"] = heaps["data folder after the stop"].replace(admin, b"", 1)
    del kept["traffic"]
    for where, heap in kept.items():
        for credential in (*bearers, enrollment, admin):
            assert credential not in heap, where


@contextlib.contextmanager
def _watched_processes() -> Iterator[set[bytes]]:
    """Collect the command line of every process on this machine, again and again, as ``ps`` would show them."""
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal():
                    with contextlib.suppress(OSError):
                        seen.add((entry / "cmdline").read_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_did_leak_would_be_found(algorithm: KeyAlgorithm) -> None:
    """Plant a key in traffic-like bytes in every form that a leak could have; the search names it each time."""
    key = _new_key(algorithm)
    needles = needles_of("planted", key)
    around = b'POST /api/v1/agents/ag-1/jobs/job-1/csr HTTP/1.1\r\n\r\n{"csr":"%s","lease_epoch":1}'
    assert Haystack(around % b"").find(needles) == []
    for document in documents(key):
        is_pem = document.startswith(b"-----BEGIN")
        for shift in range(3):
            padded = b"\x30\x82\x01"[:shift] + document
            forms = [padded, padded.hex().encode(), base64.b64encode(padded), base64.urlsafe_b64encode(padded)]
            forms += [base64.encodebytes(padded), json.dumps({"pem": padded.decode("latin-1")}).encode()][: 1 + is_pem]
            for form in forms:
                assert Haystack(around % form).find(needles), form[:80]
    half = documents(key)[1]
    assert Haystack(half[: len(half) * 3 // 4]).find(needles), "a key that was cut"


def _new_key(algorithm: KeyAlgorithm) -> AnyKey:
    match algorithm:
        case KeyAlgorithm.ECDSA_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyAlgorithm.ECDSA_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyAlgorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(public_exponent=65537, key_size=int(algorithm.removeprefix("rsa-")))
