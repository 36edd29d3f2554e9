"""The machine: beside what operators and agents do, it draws loops, time, losses, and two calls at the same moment."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from coordinator.bindings import service as bindings
from coordinator.issuance import service as issuance
from core import wire
from tests.coordinator.model.book import LEASE, OK, Book
from tests.coordinator.model.hands import COORDINATORS, NUMBERS, Hands, deaths, words
from tests.coordinator.model.stage import AGENTS, Died, dying
from tests.coordinator.model.together import Call, at_once, counted, explained, submission

JUMPS = [
    timedelta(seconds=1),
    timedelta(seconds=11),
    LEASE,
    LEASE + timedelta(seconds=1),
    timedelta(minutes=40),
    timedelta(days=20),
]
CALLS = st.sampled_from(["submit", "served", "transient", "reconcile", "renew_due"])


class Machine(Hands):
    """Everything together; ``stage`` and ``tally`` are set on a subclass."""

    # --- loops and time -----------------------------------------------------------------------------------------------

    @rule(step=st.sampled_from(JUMPS))
    def advance(self, step: timedelta) -> None:
        self.run(self.stage.advance(step))
        self.book.now = self.stage.now

    @rule()
    def advance_to_renewal(self) -> None:
        """Move to the moment at which something falls due, if that is to come."""
        due = min(
            (h.renew_at for h in self.book.holders.values() if h.renew_at and h.renew_at > self.book.now), default=None
        )
        if due is not None:
            self.advance(step=due - self.book.now)

    def ctx(self, coordinator: int) -> Any:
        return self.stage.worlds[coordinator].ctx

    @rule(coordinator=COORDINATORS)
    def renew_due(self, coordinator: int) -> None:
        assert self.run(bindings.renew_due(self.ctx(coordinator))) == self.book.renew_due()

    @rule(coordinator=COORDINATORS, dies=deaths("lease.expired", "reconcile.deployment_queued"))
    def reconcile(self, coordinator: int, dies: str) -> None:
        try:
            with dying(dies):
                done = self.run(bindings.reconcile(self.ctx(coordinator)))
        except Died:
            return
        assert done == self.book.reconcile()
        self.gaps.clear()

    @rule(coordinator=COORDINATORS)
    def finish_interrupted(self, coordinator: int) -> None:
        interrupted = self.book.interrupted()
        assert self.run(issuance.finish_interrupted(self.ctx(coordinator))) == len(interrupted)
        for job_id in interrupted:
            assert self.book.finish(job_id) == OK

    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        """A live job is ended behind everybody's back."""
        live = [job for job in self.book.jobs.values() if job.live and job.state != "AwaitingCA"]
        if live and number % 3 == 0:
            job = live[number % len(live)]
            self.run(self.stage.worlds[0].execute("UPDATE jobs SET state = 'Cancelled' WHERE id = $1", job.id))
            self.book.cancel_by_hand(job.id)
            self.gaps.add((job.certificate, job.target or job.agent))

    # --- two at once ------------------------------------------------------------------------------------------------

    @rule(first=CALLS, second=CALLS, one=NUMBERS, two=NUMBERS)
    def together(self, first: str, second: str, one: int, two: int) -> None:
        calls = self._call(first, one, 0), self._call(second, two, 1)
        if calls[0] is not None and calls[1] is not None:
            both = calls[0], calls[1]
            results = self.run(at_once(*both))
            self.book = explained(self.book, both, results, self.run(self.stage.observe()))
            self.tally.answers[f"together: {first}, {second}"] += 1
            self.gaps = {gap for gap in self.gaps if "reconcile" not in {first, second}}

    def _call(self, name: str, number: int, coordinator: int) -> Call | None:
        """Return a call with the epoch that the book has, so that it counts; None when there is nothing to say."""
        ctx = self.ctx(coordinator)
        match name:
            case "reconcile":
                steps = counted(Book.end_silent, Book.issue_unissued, Book.serve_unserved)
                return Call(name, lambda: bindings.reconcile(ctx), steps)
            case "renew_due":
                return Call(name, lambda: bindings.renew_due(ctx), counted(Book.renew_due))
            case "submit":
                return self._together_submission(number, coordinator)
            case _:
                return self._together_report(name, number, coordinator)

    def _together_submission(self, number: int, coordinator: int) -> Call | None:
        found = self.picked(number, wire.IssuanceItem)
        if found is None:
            return None
        who, item = found
        agent, (csr, spki) = copy.copy(self.agent(who, coordinator)), self.csr(item, "same")

        async def send() -> int:
            return (await agent.submit(item, csr)).status_code

        return Call("submit", send, submission(agent.id, item.job_id, item.lease_epoch, spki))

    def _together_report(self, outcome: str, number: int, coordinator: int) -> Call | None:
        found = self.picked(number, wire.DeploymentItem)
        if found is None:
            return None
        who, item = found
        agent = copy.copy(self.agent(who, coordinator))

        async def send() -> int:
            return (await agent.report(item.job_id, words(agent, item, outcome, item.lease_epoch))).status_code

        def tell(book: Book, _: int) -> int:
            return book.report(agent.id, item.job_id, item.lease_epoch, failed=outcome == "transient")

        return Call(outcome, send, [tell])

    # --- the end ----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Let time pass and everybody work: in the end everything that is wanted is served."""
        if not self.agreed or not self.book.lifetimes:
            return
        for _ in range(4):
            self.advance(step=timedelta(hours=2))
            self.finish_interrupted(coordinator=0)
            self.reconcile(coordinator=1, dies="")
            self.compare()
            for who in (*range(AGENTS), *range(AGENTS)):
                self.restart(who=who, keeps=False)
                self.work(who=who, coordinator=0)
            if self._settled():
                return
        raise AssertionError(f"there is no end to this: {self.book}")

    def _settled(self) -> bool:
        return (
            not any(job.live for job in self.book.jobs.values())
            and all(binding.wanted == binding.served != "" for binding in self.book.bindings.values())
            and all(holder.wanted for holder in self.book.holders.values())
        )
