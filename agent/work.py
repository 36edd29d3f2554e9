"""Receives work, does several things at once, reports each.

What is in hand is said with every poll, so that the coordinator knows what got lost on the way. A report is repeated
until it is stored or no longer wanted. The broad ``except`` here is the job runner's: a defect in one job is reported
as its failure and leaves the others alone.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

import msgspec
import structlog
import trio

from agent.backoff import Backoff, until_answered
from agent.coordinator import Coordinator
from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.identity import Identity
from agent.issuance import issue
from agent.keystore import Keystore
from core.crash import crash_point
from core.errors import CertctlError, Conflict, Gone, NotFound, Permanent, StaleLease, Transient
from core.identity import sign_report
from core.wire import DeploymentItem, Failure, IssuanceItem, JobReport, SignedReport

log = structlog.get_logger(__name__)
POLL_S = 40.0
_SECOND_CHANCE = (StaleLease, Conflict, NotFound)


@dataclass
class Activity:
    """What the local page shows."""

    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    held: dict[str, str] = field(default_factory=dict)
    connected: bool = False
    last_poll: float = 0.0
    last_error: str = ""
    ended: dict[str, int] = field(default_factory=lambda: {"served": 0, "unchanged": 0, "failed": 0, "issued": 0})


class Worker:
    """Polls and works until it is told to stop."""

    def __init__(
        self, identity: Identity, client: Coordinator, keystore: Keystore, deployer: Deployer, activity: Activity
    ) -> None:
        self._identity = identity
        self._client = client
        self._keystore = keystore
        self._deployer = deployer
        self.activity = activity

    async def run(self, stopping: trio.Event) -> None:
        """Work until ``stopping`` is set, then finish what is in hand. Raises ``Gone`` when the agent was retired."""
        async with trio.open_nursery() as in_hand, trio.open_nursery() as polling:
            polling.start_soon(self._poll, in_hand)
            await stopping.wait()
            polling.cancel_scope.cancel()

    async def _poll(self, in_hand: trio.Nursery) -> None:
        backoff = Backoff()
        while True:
            try:
                work = await self._client.poll(self.activity.boot, list(self.activity.held), POLL_S)
            except Gone:
                raise
            except (Transient, Permanent) as error:
                self._note_trouble(error)
                await backoff.pause()
                continue
            backoff.reset()
            self.activity.connected, self.activity.last_poll, self.activity.last_error = True, time.time(), ""
            for item in work.items:
                self.activity.held[item.job_id] = item.certificate_id
                in_hand.start_soon(self._do, item)

    def _note_trouble(self, error: CertctlError) -> None:
        if self.activity.connected or self.activity.last_error != error.detail:
            log.warning("poll_failed", detail=error.detail)
        self.activity.connected, self.activity.last_error = False, error.detail

    async def _do(self, item: IssuanceItem | DeploymentItem) -> None:
        with structlog.contextvars.bound_contextvars(job_id=item.job_id, certificate_id=item.certificate_id):
            crash_point("work.received")
            try:
                if isinstance(item, IssuanceItem):
                    await self._issue(item)
                else:
                    await self._deploy(item)
            finally:
                self.activity.held.pop(item.job_id, None)

    async def _issue(self, item: IssuanceItem) -> None:
        try:
            await issue(item, self._keystore, self._client)
        except _SECOND_CHANCE as error:
            log.info("issuance_dropped", detail=error.detail)
        except Exception as error:  # noqa: BLE001 - the job runner's
            failure = _failure("issuance", error)
            await self._report(item, DeploymentOutcome(outcome="failed", failure=failure))
        else:
            self.activity.ended["issued"] += 1

    async def _deploy(self, item: DeploymentItem) -> None:
        try:
            key = await trio.to_thread.run_sync(self._keystore.key, item.certificate_id, item.spki_sha256)
            outcome = await self._deployer.deploy(item, key)
        except Exception as error:  # noqa: BLE001 - the job runner's
            outcome = DeploymentOutcome(outcome="failed", failure=_failure("deployment", error))
        await self._report(item, outcome)
        if outcome.failure is None:
            await trio.to_thread.run_sync(self._keystore.prune, item.certificate_id, item.spki_sha256)

    async def _report(self, item: IssuanceItem | DeploymentItem, outcome: DeploymentOutcome) -> None:
        self.activity.ended[outcome.outcome] += 1
        told = log.warning if outcome.failure else log.info
        told(
            "job_ended",
            outcome=outcome.outcome,
            cause=outcome.failure.cause if outcome.failure else "",
            undo=outcome.undo,
        )
        report = JobReport(
            agent_id=self._identity.agent_id,
            job_id=item.job_id,
            lease_epoch=item.lease_epoch,
            **{name: getattr(outcome, name) for name in outcome.__struct_fields__},
        )
        payload = msgspec.json.encode(report)
        signed = SignedReport(payload, sign_report(self._identity.signing, payload))
        crash_point("work.reporting")
        try:
            await until_answered("report", lambda: self._client.report(item.job_id, signed))
        except Gone:
            raise
        except Permanent as error:
            log.warning("report_not_taken", detail=error.detail)


def _failure(step: str, error: Exception) -> Failure:
    """Say why a job failed; a defect is logged in full and named by its type only."""
    if isinstance(error, CertctlError):
        return Failure(step, error.detail, isinstance(error, Transient))
    log.error("job_crashed", exc_info=error)
    return Failure(step, f"the agent failed unexpectedly ({type(error).__name__}); its log says more")
