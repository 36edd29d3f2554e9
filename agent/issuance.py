"""Key → CSR → certificate, for one issuance item."""

from __future__ import annotations

import trio

from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.keystore import Keystore
from core.wire import CSRSubmission, IssuanceItem


async def issue(item: IssuanceItem, keystore: Keystore, client: Coordinator) -> None:
    """Make the key, hand in the CSR, keep the answer; what the coordinator refuses for good is raised."""
    request = await trio.to_thread.run_sync(keystore.request_for, item)
    submission = CSRSubmission(item.lease_epoch, request.csr, request.key_ms, request.csr_ms)
    answer = await until_answered("submit CSR", lambda: client.submit_csr(item.job_id, submission))
    if answer.state == "issued":
        await trio.to_thread.run_sync(keystore.answer, item.certificate_id, request.spki_sha256, answer.chain)
