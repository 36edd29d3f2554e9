"""Receives work, does several things at once, reports each.

What is in hand is said with every poll, so that the coordinator knows what got lost on the way. A report is repeated
until it is stored or no longer wanted. The broad ``except`` here is the job runner's: a defect in one job is reported
as its failure and leaves the others alone.
"""

from __future__ import annotations

import msgspec
import structlog
import trio

from agent.activity import Activity
from agent.backoff import Backoff, Trouble, until_answered
from agent.challenges import Answers
from agent.coordinator import Coordinator
from agent.deployment.deployer import Deployer
from agent.deployment.outcome import DeploymentOutcome
from agent.heads import HeadLog
from agent.identity import Identity
from agent.issuance import collect_answers, given_key, issue
from agent.keystore import Keystore
from agent.patience import Patience
from agent.perspective import Looks
from agent.supervision import supervised
from core import tracing
from core.crash import crash_point
from core.errors import CertctlError, Gone, NotFound, Permanent, StaleLease, Transient
from core.identity import sign_report
from core.wire import DeploymentItem, Failure, IssuanceItem, JobReport, SignedReport, TrialItem, TrialReport, Work

log = structlog.get_logger(__name__)

_NOT_OURS = (StaleLease, NotFound)
"""The job ended, or is somebody else's by now: nothing is left to do or to say. Any other refusal is a failure of the
job, also a ``Conflict``: the coordinator has seen another key for it, and only a new job brings a new one."""

COLLECT_EVERY_S = 300.0
"""How often a pending answer is asked for."""

Item = IssuanceItem | DeploymentItem


class Worker:
    """Polls and works until ``stopping`` is set or the agent was retired; ``retired`` then holds the reason."""

    def __init__(
        self,
        identity: Identity,
        client: Coordinator,
        keystore: Keystore,
        deployer: Deployer,
        activity: Activity,
        stopping: trio.Event,
        heads: HeadLog,
    ) -> None:
        self._heads = heads
        self._identity = identity
        self._client = client
        self._keystore = keystore
        self._deployer = deployer
        self._activity = activity
        self._stopping = stopping
        self._unheard: dict[str, Backoff] = {}
        self._pending = trio.Event()
        self._trying: set[str] = set()
        self._answers = Answers(client, lambda: deployer.policy, stopping)
        self._looks = Looks(client, lambda: deployer.policy, stopping)
        self.retired = ""

    async def run(self) -> None:
        """Work until there is a reason to stop, then finish what is in hand."""
        async with trio.open_nursery() as in_hand, trio.open_nursery() as polling:
            polling.start_soon(supervised, "poll", lambda: self._poll(in_hand, polling))
            polling.start_soon(supervised, "collect", self._collect)
            await self._stopping.wait()
            polling.cancel_scope.cancel()

    async def _collect(self) -> None:
        """Ask for answers that the last run did not hear, and now and then for those that take persons days.

        What has targets comes back as a deployment in the moment it is issued; only a key without any waits for this.
        """
        while True:
            self._pending, pending = trio.Event(), True
            try:
                pending = await collect_answers(self._keystore, self._client, self._stopping)
            except Gone as error:
                self._retire(error)
            except CertctlError as error:
                log.warning("answers_not_collected", detail=error.detail)
            if not pending:
                await self._pending.wait()
            await trio.sleep(COLLECT_EVERY_S)

    async def _poll(self, in_hand: trio.Nursery, until_stopped: trio.Nursery) -> None:
        backoff, trouble, patience, activity = Backoff(), Trouble(), Patience(), self._activity

        def heard() -> None:
            patience.heard()
            activity.note_answer()

        while True:
            held = list(activity.held)
            wait_s = patience.next_wait_s(connected=activity.connected, busy=bool(held))
            try:
                work = await self._client.poll(activity.boot, held, wait_s, heard)
            except Gone as error:
                self._retire(error)
                return
            except (Transient, Permanent) as error:
                patience.failed(error)
                activity.note_trouble(error.detail)
                if trouble.is_news(error.detail):
                    log.warning("poll_failed", detail=error.detail)
                await backoff.pause(least_s=error.retry_after_s if isinstance(error, Transient) else 0.0)
                continue
            patience.granted(work)
            self._heads.keep(work.audit_head)
            backoff.reset()
            backoff.spread_s = work.spread_s
            trouble.over()
            activity.note_answer()
            self._hand_out(work, in_hand, until_stopped)

    def _hand_out(self, work: Work, in_hand: trio.Nursery, until_stopped: trio.Nursery) -> None:
        for item in work.items:
            self._take(item, in_hand)
        for answer in work.challenges:
            self._answers.take(answer, until_stopped)
        for look in work.looks:
            self._looks.take(look, until_stopped)
        for trial in work.trials:
            if trial.trial_id not in self._trying:
                self._trying.add(trial.trial_id)
                in_hand.start_soon(self._try_out, trial)

    def _take(self, item: Item, in_hand: trio.Nursery) -> None:
        if item.job_id not in self._activity.held:
            self._activity.held[item.job_id] = item.certificate_id
            in_hand.start_soon(self._do, item)

    async def _try_out(self, trial: TrialItem) -> None:
        """Try a target and tell of it; what was not heard is offered, and tried, again."""
        try:
            try:
                report = await self._deployer.try_out(trial)
            except Exception as error:  # noqa: BLE001 - the job runner's
                report = TrialReport(failure=_failure("trial", error))
            await until_answered(
                "trial", lambda: self._client.report_trial(trial.trial_id, report), stopping=self._stopping
            )
        except Gone as error:
            self._retire(error)
        except CertctlError as error:
            log.warning("trial_not_taken", detail=error.detail)
        finally:
            self._trying.discard(trial.trial_id)

    def _retire(self, error: Gone) -> None:
        self.retired = error.detail
        self._stopping.set()

    async def _do(self, item: Item) -> None:
        with structlog.contextvars.bound_contextvars(job_id=item.job_id, certificate_id=item.certificate_id):
            crash_point("work.received")
            try:
                heard = await self._traced(item)
            except Exception:
                log.exception("job_crashed")
                heard = False
            try:
                await self._hold_back(item, heard=heard)
            finally:
                self._activity.held.pop(item.job_id, None)

    async def _traced(self, item: Item) -> bool:
        about = {"job_id": item.job_id, "certificate_id": item.certificate_id}
        if isinstance(item, IssuanceItem):
            with tracing.span("issuance", item.traceparent, **about):
                return await self._issue(item)
        with tracing.span("deployment", item.traceparent, **about, target_id=item.target_id):
            return await self._deploy(item)

    async def _hold_back(self, item: Item, *, heard: bool) -> None:
        """Keep in hand, for longer each time, what the coordinator did not hear the end of: it offers that at once."""
        if heard:
            self._unheard.pop(item.job_id, None)
        else:
            await self._unheard.setdefault(item.job_id, Backoff()).pause(self._stopping)

    async def _issue(self, item: IssuanceItem) -> bool:
        """Return whether the coordinator knows how it ended; so do the others below."""
        try:
            given = given_key(item, self._deployer.policy, self._identity.sealing)
            state = await issue(item, self._keystore, self._client, self._stopping, given)
        except Gone as error:
            self._retire(error)
        except _NOT_OURS as error:
            log.info("issuance_dropped", detail=error.detail)
        except Exception as error:  # noqa: BLE001 - the job runner's
            if isinstance(error, Transient) and self._stopping.is_set():
                log.info("issuance_left", detail=error.detail)
                return True
            return await self._report(item, DeploymentOutcome(outcome="failed", failure=_failure("issuance", error)))
        else:
            if state == "issued":
                self._activity.ended["issued"] += 1
            else:
                self._pending.set()
        return True

    async def _deploy(self, item: DeploymentItem) -> bool:
        try:
            key = await trio.to_thread.run_sync(self._keystore.key, item.certificate_id, item.spki_sha256)
            outcome = await self._deployer.deploy(item, key)
        except Exception as error:  # noqa: BLE001 - the job runner's
            outcome = DeploymentOutcome(outcome="failed", failure=_failure("deployment", error))
        heard = await self._report(item, outcome)
        if outcome.failure is None:
            await self._prune(item)
        return heard

    async def _prune(self, item: DeploymentItem) -> None:
        try:
            await trio.to_thread.run_sync(self._keystore.settle, item.certificate_id, item.spki_sha256, item.chain)
            await trio.to_thread.run_sync(self._keystore.prune, item.certificate_id, item.spki_sha256)
        except CertctlError as error:
            log.warning("old_keys_left", detail=error.detail)

    async def _report(self, item: Item, outcome: DeploymentOutcome) -> bool:
        """Hand in how a job ended. What cannot be handed in before a stop is found to be done at the next start."""
        self._activity.ended[outcome.outcome] += 1
        tell = log.warning if outcome.failure else log.info
        cause = outcome.failure.cause if outcome.failure else ""
        tracing.note(failed=outcome.failure is not None, outcome=outcome.outcome)
        tell("job_ended", outcome=outcome.outcome, cause=cause, undo=outcome.undo)
        signed = self._signed(item, outcome)
        crash_point("work.reporting")
        try:
            await until_answered("report", lambda: self._client.report(item.job_id, signed), stopping=self._stopping)
        except Gone as error:
            self._retire(error)
            return True
        except CertctlError as error:
            log.warning("report_not_taken", detail=error.detail)
            return isinstance(error, _NOT_OURS)
        crash_point("work.reported")
        return True

    def _signed(self, item: Item, outcome: DeploymentOutcome) -> SignedReport:
        report = JobReport(
            agent_id=self._identity.agent_id,
            job_id=item.job_id,
            lease_epoch=item.lease_epoch,
            **{name: getattr(outcome, name) for name in outcome.__struct_fields__},
        )
        payload = msgspec.json.encode(report)
        return SignedReport(payload, sign_report(self._identity.signing, payload))


def _failure(step: str, error: Exception) -> Failure:
    """Say why a job failed; a defect is logged in full and named by its type only."""
    if isinstance(error, CertctlError):
        return Failure(step, error.detail, isinstance(error, Transient))
    log.error("job_crashed", exc_info=error)
    return Failure(step, f"the agent failed unexpectedly ({type(error).__name__}); its log says more")
