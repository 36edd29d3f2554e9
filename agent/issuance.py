"""Key → CSR → certificate, for one issuance item."""

from __future__ import annotations

import os
from typing import Literal

import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.keystore import Keystore, PendingRequest
from agent.policy import HostPolicy
from core import hpke, tracing
from core.crash import crash_point
from core.errors import Gone, Permanent
from core.secret import Secret
from core.wire import CSRSubmission, IssuanceItem

log = structlog.get_logger(__name__)
_NO_LEASE = 0
_KEY_MAKERS = trio.CapacityLimiter(os.cpu_count() or 1)
"""Making RSA keys keeps a processor busy for seconds; a flood of them must not take every thread from deployments."""


async def collect_answers(keystore: Keystore, client: Coordinator, stopping: trio.Event) -> bool:
    """Fetch what was issued since a CSR was handed in and before its answer was heard; say whether some are pending.

    A request that the coordinator has not accepted is refused here for want of a lease, and comes back as work. What is
    refused for another reason is no worse off than before, and keeps no other from its answer.
    """
    pending = False
    for certificate_id, request in await trio.to_thread.run_sync(keystore.unanswered):
        try:
            state = await _hand_in(certificate_id, request, _NO_LEASE, keystore, client, stopping)
            pending = pending or state == "pending"
        except Gone:
            raise
        except Permanent as error:
            log.debug("request_without_answer", job_id=request.job_id, detail=error.detail)
    return pending


def given_key(item: IssuanceItem, policy: HostPolicy, sealing_key: X25519PrivateKey) -> Secret[bytes] | None:
    """Return the key that the coordinator made for a job, if there is one and this host uses such keys.

    Raises ``Refused`` for one that is not sealed to this agent and job.
    """
    if not item.sealed_key:
        return None
    if not policy.accept_coordinator_keys:
        remedy = f"to use such keys, set accept_coordinator_keys = true in {policy.source}"
        log.warning("key_from_coordinator_not_used", detail=f"this agent makes its own; {remedy}")
        return None
    place = item.certificate_id, item.job_id
    pem = hpke.open_sealed(sealing_key, item.sealed_key, *place, context=hpke.GIVEN_KEY)
    log.warning("key_from_coordinator_used", detail="the coordinator has seen this private key")
    return Secret(pem.reveal().encode())


async def issue(
    item: IssuanceItem,
    keystore: Keystore,
    client: Coordinator,
    stopping: trio.Event,
    given: Secret[bytes] | None = None,
) -> Literal["issued", "pending"]:
    """Make the key or use the ``given`` one, hand in the CSR, keep the answer; what is refused for good is raised.

    Raises ``Transient`` as well once ``stopping`` is set: the next start goes on with the same key and CSR.
    """
    request = await trio.to_thread.run_sync(keystore.request_for, item, given, limiter=_KEY_MAKERS)
    tracing.measured("key", request.key_ms, before_ms=request.csr_ms)
    tracing.measured("csr", request.csr_ms)
    return await _hand_in(item.certificate_id, request, item.lease_epoch, keystore, client, stopping)


async def _hand_in(
    certificate_id: str,
    request: PendingRequest,
    lease_epoch: int,
    keystore: Keystore,
    client: Coordinator,
    stopping: trio.Event,
) -> Literal["issued", "pending"]:
    submission = CSRSubmission(lease_epoch, request.csr, request.key_ms, request.csr_ms)
    answer = await until_answered(
        "submit CSR", lambda: client.submit_csr(request.job_id, submission), stopping=stopping
    )
    crash_point("issuance.answered")
    if answer.state == "issued":
        await trio.to_thread.run_sync(keystore.answer, certificate_id, request.spki_sha256, answer.chain)
    return answer.state
