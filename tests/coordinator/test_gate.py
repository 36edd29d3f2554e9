"""The issuance gate: what an agent's CSR may ask for, and exactly one version for each request, whatever happens."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.issuance import service as issuance
from core import keys, wire
from core.certificates import read_certificate
from core.keys import KeyAlgorithm
from tests.coordinator.world import (
    FakeAgent,
    World,
    csr_for,
    csr_of,
    done,
    dump,
    open_world,
    problem,
    variables,
)

pytestmark = pytest.mark.anyio

WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - the weakness is what is tested


@pytest.fixture
async def job(world: World) -> tuple[FakeAgent, wire.IssuanceItem]:
    """An issuance in an agent's hands; nothing in the database may change in the test but by its last call."""
    agent = await world.agent()
    await world.certificate(agent_id=agent.id, sans=["example.com"])
    return agent, await agent.item()


REFUSED: dict[str, tuple[Any, int]] = {
    "an extra name": (lambda: csr_of("www.example.com", "example.com", "evil.example.com"), 422),
    "a missing name": (lambda: csr_of("www.example.com"), 422),
    "other names": (lambda: csr_of("evil.example.com"), 422),
    "a foreign common name": (lambda: with_subject("evil.example.com"), 422),
    "another key algorithm": (
        lambda: csr_of("www.example.com", "example.com", key=keys.generate(KeyAlgorithm.ECDSA_P384)),
        422,
    ),
    "a weak key": (lambda: csr_of("www.example.com", "example.com", key=WEAK), 400),
    "a broken signature": (
        lambda: csr_of("www.example.com", "example.com").replace(b"example.com", b"example.org"),
        400,
    ),
    "no CSR": (lambda: b"no CSR", 400),
    "nothing": (lambda: b"", 400),
    "too much": (lambda: bytes(64 * 1024), 400),
}


def with_subject(common_name: str) -> bytes:
    """Return a CSR for the right names under another subject."""
    names = x509.SubjectAlternativeName([x509.DNSName("www.example.com"), x509.DNSName("example.com")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    key = keys.generate(KeyAlgorithm.ECDSA_P256)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


async def test_a_csr_for_anything_else_is_refused_and_changes_nothing(
    world: World, job: tuple[FakeAgent, wire.IssuanceItem], subtests: pytest.Subtests
) -> None:
    agent, item = job
    before = await dump(world.dsn)
    for what, (make, status) in REFUSED.items():
        with subtests.test(what):
            problem(await agent.submit(item, make()), status, "csr")
    with subtests.test("not base64"):
        body = {"lease_epoch": item.lease_epoch, "csr": "*"}
        problem(await agent.call("POST", f"/jobs/{item.job_id}/csr", json=body), 400, "csr")
    with subtests.test("an unknown job"):
        problem(await agent.call("POST", "/jobs/job-none/csr", json={**body, "csr": ""}), 404)
    assert await dump(world.dsn) == before
    await agent.issue(item)


async def test_a_key_of_another_certificate_or_agent_is_refused_and_the_own_one_is_not(world: World) -> None:
    agent, other = await world.agent("one"), await world.agent("other")
    key = keys.generate(KeyAlgorithm.ECDSA_P256)
    certificate_id, _ = await world.certificate(agent_id=agent.id)
    item = await agent.item()
    done(await agent.submit(item, csr_for(item, key)))
    await world.certificate(agent_id=agent.id, common_name="two.example.com")
    await world.certificate(agent_id=other.id, common_name="three.example.com")
    for holder in (agent, other):
        item = await holder.item()
        refused = problem(await holder.submit(item, csr_for(item, key)), 422, "csr")
        assert "another certificate or agent uses" in refused["detail"]
        await holder.issue(item)
    await world.post(f"/api/v1/certificates/{certificate_id}/renew")
    item = await agent.item()
    done(await agent.submit(item, csr_for(item, key)))


async def test_of_a_csr_only_the_key_comes_through(world: World, job: tuple[FakeAgent, wire.IssuanceItem]) -> None:
    agent, item = job
    key = keys.generate(KeyAlgorithm.ECDSA_P256)
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Evil Corp"),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    wanted: list[x509.ExtensionType] = [
        x509.SubjectAlternativeName([x509.DNSName("example.com"), x509.DNSName("WWW.example.com")]),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
    ]
    for extension in wanted:
        builder = builder.add_extension(extension, critical=True)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    chain = done(await agent.submit(item, csr))["chain"]
    leaf = x509.load_der_x509_certificate(base64.b64decode(chain[0]))
    assert leaf.public_key() == key.public_key()
    assert leaf.subject.rfc4514_string() == "CN=www.example.com"
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usages = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    events = await world.rows("SELECT details FROM audit_events WHERE action = 'certificate.csr_accepted'")
    assert events[0]["details"]["ignored"] == ["extension 2.5.29.19", "extension 2.5.29.37", "subject O"]


async def versions(world: World) -> int:
    return int(await world.value("SELECT count(*) FROM certificate_versions"))


async def test_the_same_csr_again_gets_the_same_answer(world: World, job: tuple[FakeAgent, wire.IssuanceItem]) -> None:
    agent, item = job
    csr = csr_for(item)
    answers = [done(await agent.submit(item, csr)) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert await versions(world) == 1
    problem(await agent.submit(item, csr_for(item)), 409)


async def test_each_signature_is_told_once_and_names_what_was_stored(
    world: World, job: tuple[FakeAgent, wire.IssuanceItem]
) -> None:
    agent, item = job
    csr = csr_for(item)
    with structlog.testing.capture_logs() as entries:
        for _ in range(2):
            done(await agent.submit(item, csr))
    told = [entry for entry in entries if entry["event"] == "certificate_signed"]
    stored = await world.rows(
        """
        SELECT requests.id AS request_id, job_id, versions.serial, fingerprint, versions.issuer_id, versions.issuer_ski
        FROM issuance_requests AS requests JOIN certificate_versions AS versions ON versions.id = requests.version_id
        """
    )
    assert told == [{"event": "certificate_signed", "log_level": "info", **dict(row)} for row in stored]
    assert len(told) == 1


async def test_submissions_at_the_same_time_make_one_version(
    world: World, job: tuple[FakeAgent, wire.IssuanceItem]
) -> None:
    agent, item = job
    same = csr_for(item)
    responses = await asyncio.gather(
        *(agent.submit(item, csr) for csr in [same] * 5 + [csr_for(item) for _ in "12345"])
    )
    assert {response.status_code for response in responses} == {200, 409}
    assert len({response.text for response in responses if response.is_success}) == 1
    assert await versions(world) == 1


async def test_renewals_and_issuances_at_the_same_time_wait_for_each_other(world: World) -> None:
    agent = await world.agent()
    made = [await world.certificate(agent_id=agent.id, common_name=f"n{n}.example.com") for n in range(8)]
    items = await agent.poll()
    calls = [agent.submit(item, csr_for(item)) for item in items if isinstance(item, wire.IssuanceItem)]
    renewals = [world.call("POST", f"/api/v1/certificates/{each}/renew", json={}) for each, _ in made]
    for response in await asyncio.gather(*calls, *renewals):
        assert response.is_success, response.text
    assert await versions(world) == 8


class CutError(BaseException):
    """What ends a step as a power cut would."""


@pytest.mark.parametrize("point", ["issuance.intent", "issuance.signed", "issuance.stored"])
@pytest.mark.parametrize("finisher", ["agent", "recovery"])
async def test_a_crash_between_intent_and_answer_is_finished_with_the_same_serial_number(
    world: World,
    job: tuple[FakeAgent, wire.IssuanceItem],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    finisher: str,
) -> None:
    agent, item = job
    csr = csr_for(item)

    def crash(name: str) -> None:
        if name == point:
            raise CutError

    with monkeypatch.context() as patched:
        patched.setattr(issuance, "crash_point", crash)
        with pytest.raises(BaseException):  # noqa: B017, PT012 - whatever a dying server looks like to its client
            await agent.submit(item, csr)
            raise CutError
    (request,) = await world.rows("SELECT serial, state FROM issuance_requests")
    assert request["state"] == ("issued" if point == "issuance.stored" else "signing")
    assert await issuance.finish_interrupted(world.ctx) == 0, "it is left alone while it may still be under way"
    await world.execute("UPDATE issuance_requests SET created_at = now() - interval '11 seconds'")
    if finisher == "recovery":
        await issuance.finish_interrupted(world.ctx)
        assert await world.value("SELECT state FROM issuance_requests") == "issued"
    answer = done(await agent.submit(item, csr))
    assert read_certificate(base64.b64decode(answer["chain"][0])).serial == request["serial"]
    assert await versions(world) == 1
    assert await issuance.finish_interrupted(world.ctx) == 0


@pytest.mark.parametrize("point", ["issuance.intent", "issuance.signed", "issuance.stored"])
async def test_a_coordinator_that_dies_by_kill_leaves_what_another_one_finishes(
    database_url: str, tmp_path: Path, point: str
) -> None:
    environment = variables(database_url, tmp_path)
    script = Path(__file__).with_name("dying_coordinator.py")
    dying = {**os.environ, **environment, "CERTCTL_CRASH_POINT": point, "PYTHONPATH": str(script.parents[2])}
    died = await anyio.run_process([sys.executable, str(script)], env=dying, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    async with open_world(environment) as world:
        await world.execute("UPDATE issuance_requests SET created_at = now() - interval '11 seconds'")
        await issuance.finish_interrupted(world.ctx)
        assert await versions(world) == 1
        rows = await world.rows(
            """
            SELECT jobs.state AS job, requests.state, requests.serial = versions.serial AS same
            FROM issuance_requests AS requests JOIN jobs ON jobs.id = job_id
            JOIN certificate_versions AS versions ON versions.id = requests.version_id
            """
        )
        assert rows == [{"job": "Completed", "state": "issued", "same": True}]


async def test_a_job_that_was_ended_while_its_request_was_open_is_not_finished(
    world: World, job: tuple[FakeAgent, wire.IssuanceItem]
) -> None:
    agent, item = job
    await world.execute("UPDATE issuers SET enabled = false")
    problem(await agent.submit(item, csr_for(item)), 422)
    await world.execute("UPDATE issuers SET enabled = true")
    csr = csr_for(item)
    done(await agent.submit(item, csr))
    await world.execute("UPDATE issuance_requests SET state = 'signing', created_at = now() - interval '11 seconds'")
    await world.execute("UPDATE jobs SET state = 'Failed'")
    assert await issuance.finish_interrupted(world.ctx) == 0
    assert problem(await agent.submit(item, csr), 409)["type"].endswith("stale-lease")


async def test_a_report_is_checked_before_it_is_believed(world: World, subtests: pytest.Subtests) -> None:
    agent, other = await world.agent("one"), await world.agent("other")
    target = await world.target(agent)
    await world.certificate(target_ids=[target])
    issuance_item = await agent.item()
    assert "success" in problem(await agent.report(issuance_item.job_id, agent.report_on(issuance_item)), 422)["detail"]
    await agent.issue(issuance_item)
    item = await agent.item()
    good = agent.report_on(item)
    before = await dump(world.dsn)
    changed: dict[str, tuple[wire.JobReport | bytes, int, str]] = {
        "for another job": (wire.JobReport(agent.id, "job-other", item.lease_epoch, "served"), 400, "payload"),
        "for another agent": (wire.JobReport(other.id, item.job_id, item.lease_epoch, "served"), 400, "payload"),
        "with another fingerprint": (
            agent.report_on(item, served_fingerprint="0" * 64),
            400,
            "payload.served_fingerprint",
        ),
        "without a fingerprint": (agent.report_on(item, served_fingerprint=""), 400, "payload.served_fingerprint"),
        "failed without a failure": (agent.report_on(item, outcome="failed"), 400, "payload"),
        "served with a failure": (agent.report_on(item, failure=wire.Failure("a", "b")), 400, "payload"),
        "of an older lease": (wire.JobReport(agent.id, item.job_id, item.lease_epoch - 1, "served"), 409, ""),
        "that is no JSON": (b"no JSON", 400, "payload"),
        "that is no UTF-8": (b'{"agent_id": "\xff"}', 400, "payload"),
        "that lacks a field": (b"{}", 400, "payload.agent_id"),
    }
    for what, (report, status, field) in changed.items():
        with subtests.test(what):
            problem(await agent.report(item.job_id, report), status, field)
    with subtests.test("signed by another agent"):
        agent.signing, other.signing = other.signing, agent.signing
        problem(await agent.report(item.job_id, good), 401)
        agent.signing, other.signing = other.signing, agent.signing
    with subtests.test("sent by another agent"):
        problem(await other.report(item.job_id, good), 404)
    assert await dump(world.dsn) == before
    done(await agent.report(item.job_id, good))
