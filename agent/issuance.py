"""Key → CSR → certificate, for one issuance item."""

from __future__ import annotations

import os
from typing import Literal

import trio

from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.keystore import Keystore
from core.wire import CSRSubmission, IssuanceItem

_KEY_MAKERS = trio.CapacityLimiter(os.cpu_count() or 1)
"""Making RSA keys keeps a processor busy for seconds; a flood of them must not take every thread from deployments."""


async def issue(
    item: IssuanceItem, keystore: Keystore, client: Coordinator, stopping: trio.Event
) -> Literal["issued", "pending"]:
    """Make the key, hand in the CSR, keep the answer; what the coordinator refuses for good is raised.

    Raises ``Transient`` as well once ``stopping`` is set: the next start goes on with the same key and CSR.
    """
    request = await trio.to_thread.run_sync(keystore.request_for, item, limiter=_KEY_MAKERS)
    submission = CSRSubmission(item.lease_epoch, request.csr, request.key_ms, request.csr_ms)
    answer = await until_answered("submit CSR", lambda: client.submit_csr(item.job_id, submission), stopping=stopping)
    if answer.state == "issued":
        await trio.to_thread.run_sync(keystore.answer, item.certificate_id, request.spki_sha256, answer.chain)
    return answer.state
