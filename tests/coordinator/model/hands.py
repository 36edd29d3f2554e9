"""What operators and agents do, well and badly: each rule tells the coordinator and the book.

Rules name what they act on by numbers, so that a failing history is a short list of plain calls. Which rule may come
next depends on no answer: after a race answers differ, and a history has to be drawn the same each time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from core import wire
from core.csr import read_csr
from core.keys import KeyAlgorithm
from core.names import parse_name
from tests.coordinator.model.book import DIED, OK, REFUSED
from tests.coordinator.model.comparison import Comparison, Process
from tests.coordinator.model.stage import AGENTS, dying
from tests.coordinator.world import FakeAgent, csr_for

LIFETIMES = [timedelta(minutes=5), timedelta(hours=1), timedelta(days=47)]
MOST_CERTIFICATES, MOST_TARGETS = 3, 5

NUMBERS = st.integers(0, 2**16)
COORDINATORS = st.integers(0, 1)
WHO = st.integers(0, AGENTS - 1)
EPOCHS = st.sampled_from(["own", "own", "own", "newest", "none", "next"])
HELD = st.sampled_from(["all", "all", "all", "none", "some", "foreign"])
KEYS = st.sampled_from(["fresh", "fresh", "same", "same", "anothers"])
OUTCOMES = st.sampled_from(["served", "served", "unchanged", "transient", "permanent", "other certificate seen"])


def deaths(*points: str) -> st.SearchStrategy[str]:
    """Mostly nobody dies."""
    return st.sampled_from(["", "", "", *points])


_IN_ISSUANCE = [f"issuance.{name}" for name in ("accepted", "intent", "signed", "recorded", "stored")]
DEATHS_OF_A_SUBMISSION = deaths(*_IN_ISSUANCE, "lease.superseded")


class Hands(Comparison):
    """Three agents, up to three certificates on up to five targets."""

    def __init__(self) -> None:
        super().__init__()
        self.boots = AGENTS
        self.delivered: list[tuple[int, Any]] = []
        self.used: dict[str, int] = {}
        self.keys = 0

    # --- means ------------------------------------------------------------------------------------------------------

    def agent(self, who: int, coordinator: int) -> FakeAgent:
        agent = self.stage.agents[who]
        agent.world = self.stage.worlds[coordinator]
        return agent

    def answered(self, what: str, response: httpx.Response, expected: int, before: list[str] | None = None) -> None:
        """Check a call's status, and that one that was refused has changed nothing at all."""
        assert response.status_code == expected, (
            f"{what}: {response.status_code} instead of {expected}: {response.text}"
        )
        self.tally.answers[f"{what} {expected}"] += 1
        if expected not in {OK, DIED}:
            assert self.run(self.stage.everything()) == before, f"{what} was refused and changed something"

    def picked(self, number: int, kind: type[Any]) -> tuple[int, Any] | None:
        """Return something that was once given to an agent, mostly what may still be answered."""
        given = [(who, item) for who, item in self.delivered if isinstance(item, kind)]
        open_ = [
            (who, item) for who, item in given if self.book.may_write(self.book.jobs[item.job_id], item.lease_epoch)
        ]
        choice = open_ if open_ and number % 4 else given[-12:]
        return choice[number // 4 % len(choice)] if choice else None

    def epoch(self, item: Any, choice: str) -> int:
        own, newest = int(item.lease_epoch), self.book.jobs[item.job_id].epoch
        return {"own": own, "newest": newest, "none": 0, "next": newest + 1}[choice]

    # --- operators --------------------------------------------------------------------------------------------------

    @initialize(who=WHO, lifetime=st.sampled_from(LIFETIMES), depth=st.integers(0, 3))
    def first(self, who: int, lifetime: timedelta, depth: int) -> None:
        """Begin with two agents that hold one certificate: not asked yet, asked, issued, or served and due again."""
        other = (who + 1) % AGENTS
        self.target(who=who, coordinator=0)
        self.target(who=other, coordinator=1)
        self.certificate(mask=3, who=who, with_agent=True, lifetime=lifetime, coordinator=0)
        for step in range(depth):
            for agent in (who, other):
                self.compare()
                self.poll(who=agent, coordinator=0, choice="all", heard=True, dies="")
                if step < depth - 1:
                    self.finish_hands(agent, 1)
        if depth == 3:
            self.compare()
            self.renew(number=0, coordinator=0)

    @precondition(lambda self: len(self.book.targets) < MOST_TARGETS)
    @rule(who=WHO, coordinator=COORDINATORS)
    def target(self, who: int, coordinator: int) -> None:
        agent = self.agent(who, coordinator)
        self.book.targets[self.run(agent.world.target(agent, f"site-{len(self.book.targets)}"))] = agent.id

    @precondition(lambda self: len(self.book.lifetimes) < MOST_CERTIFICATES)
    @rule(
        mask=st.integers(0, 31),
        who=WHO,
        with_agent=st.booleans(),
        lifetime=st.sampled_from(LIFETIMES),
        coordinator=COORDINATORS,
    )
    def certificate(self, mask: int, who: int, with_agent: bool, lifetime: timedelta, coordinator: int) -> None:
        targets = [target for place, target in enumerate(self.book.targets) if mask >> place & 1]
        if mask % 8:  # mostly a wish that can be granted
            targets = [target for target in targets if not self.book.bound(target)]
        certificate_id = f"mc-{len(self.book.lifetimes)}"
        wish = {
            "id": certificate_id,
            "common_name": f"n{len(self.book.lifetimes)}.example.com",
            "target_ids": targets,
            "lifetime_s": int(lifetime.total_seconds()),
            **({"agent_id": self.stage.agents[who].id} if with_agent else {}),
        }
        taken = any(self.book.bound(target) for target in targets)
        before = self.run(self.stage.everything()) if taken else None
        response = self.run(self.stage.worlds[coordinator].call("POST", "/api/v1/certificates", json=wish))
        self.answered("create", response, 409 if taken else 201, before if taken else self.run(self.stage.everything()))
        if not taken:
            agents = {self.stage.agents[who].id} if with_agent else set()
            self.book.certificate(certificate_id, lifetime, targets, agents)

    @rule(number=NUMBERS, coordinator=COORDINATORS)
    def renew(self, number: int, coordinator: int) -> None:
        certificate = list(self.book.lifetimes)[number % len(self.book.lifetimes)]
        before = self.run(self.stage.everything())
        response = self.run(self.stage.worlds[coordinator].call("POST", f"/api/v1/certificates/{certificate}/renew"))
        status = self.book.renew(certificate)
        assert response.status_code == (202 if status == OK else status), response.text
        if status != OK:
            self.answered("renew", response, status, before)

    # --- agents -----------------------------------------------------------------------------------------------------

    def held(self, process: Process, choice: str) -> list[str]:
        hands = sorted(process.hands, key=list(self.book.jobs).index)
        foreign = [job_id for job_id in self.book.jobs if job_id not in process.hands]
        return {"all": hands, "none": [], "some": hands[::2], "foreign": hands + foreign[:5]}[choice]

    @rule(
        who=WHO,
        coordinator=COORDINATORS,
        choice=HELD,
        heard=st.sampled_from([True, True, True, False]),
        dies=deaths("lease.extended", "lease.claimed", "lease.claim_committed"),
    )
    def poll(self, who: int, coordinator: int, choice: str, heard: bool, dies: str) -> None:
        agent, process = self.agent(who, coordinator), self.processes[who]
        held = self.held(process, choice)
        own = {job_id for job_id in held if self.book.jobs[job_id].owner == process.boot}
        given = self.book.poll(agent.id, process.boot, held, dies=dies)
        expected = DIED if given is None or (given and dies == "lease.claim_committed") else OK
        query = {"boot": process.boot, "wait": 0, "held": ",".join(held)}
        with dying(dies):
            response = self.run(agent.call("GET", "/work", params=query))
        self.answered("poll", response, expected)
        if expected == OK:
            items = msgspec.convert(response.json(), wire.Work).items
            assert {item.job_id: item.lease_epoch for item in items} == given
            assert not own & {item.job_id for item in items}, "given twice to one process"
            for item in items:
                assert self.book.jobs[item.job_id].agent == agent.id
                if heard:
                    process.hands[item.job_id] = item
                    self.delivered.append((who, item))

    @rule(who=WHO, keeps=st.booleans())
    def restart(self, who: int, keeps: bool) -> None:
        """Start the agent's process anew; with ``keeps``, one that wrongly still names what the last one held."""
        hands = self.processes[who].hands if keeps else {}
        self.processes[who] = Process(f"boot{self.boots:05d}", hands)
        self.boots += 1

    def csr(self, item: wire.IssuanceItem, choice: str) -> tuple[bytes, str]:
        """Return a CSR and its key's name: a fresh key, the one of this job, or one that another job was given."""
        if choice == "same" and item.job_id in self.used:
            number = self.used[item.job_id]
        elif choice == "anothers" and self.used:
            number = list(self.used.values())[-1]
        else:
            number = self.keys % len(self.stage.keys)
            self.keys += 1
        if choice != "anothers":
            self.used.setdefault(item.job_id, number)
        csr = csr_for(item, self.stage.keys[number])
        return csr, read_csr(csr)[0].spki_sha256

    @rule(number=NUMBERS, coordinator=COORDINATORS, key=KEYS, epoch=EPOCHS, dies=DEATHS_OF_A_SUBMISSION)
    def submit(self, number: int, coordinator: int, key: str, epoch: str, dies: str) -> None:
        found = self.picked(number, wire.IssuanceItem)
        if found is not None:
            who, item = found
            self._submit(who, item, coordinator, self.csr(item, key), self.epoch(item, epoch), dies)

    def _submit(self, who: int, item: Any, coordinator: int, csr: tuple[bytes, str], epoch: int, dies: str = "") -> int:
        agent, before = self.agent(who, coordinator), self.run(self.stage.everything())
        with dying(dies):
            response = self.run(agent.submit(item, csr[0], epoch=epoch))
        status = self.book.submit(agent.id, item.job_id, epoch, csr[1], dies=dies)
        self.answered("submit", response, status, before)
        if status == OK:
            self.processes[who].hands.pop(item.job_id, None)
        return status

    @rule(
        number=NUMBERS,
        coordinator=COORDINATORS,
        outcome=OUTCOMES,
        epoch=EPOCHS,
        dies=deaths("report.stored", "report.committed"),
    )
    def report(self, number: int, coordinator: int, outcome: str, epoch: str, dies: str) -> None:
        found = self.picked(number, wire.IssuanceItem if outcome == "permanent" else wire.DeploymentItem)
        if found is not None:
            who, item = found
            self._report(who, item, coordinator, outcome, self.epoch(item, epoch), dies)

    def _report(self, who: int, item: Any, coordinator: int, outcome: str, epoch: int, dies: str = "") -> None:
        agent, before = self.agent(who, coordinator), self.run(self.stage.everything())
        with dying(dies):
            response = self.run(agent.report(item.job_id, words(agent, item, outcome, epoch)))
        status = self.book.report(
            agent.id,
            item.job_id,
            epoch,
            failed=outcome in {"transient", "permanent"},
            other_seen=outcome == "other certificate seen",
            dies=dies,
        )
        self.answered("report", response, status, before)
        if status == OK:
            self.processes[who].hands.pop(item.job_id, None)

    @rule(number=NUMBERS, coordinator=COORDINATORS, other=st.integers(1, AGENTS - 1))
    def meddle(self, number: int, coordinator: int, other: int) -> None:
        """Another agent answers for a job, with everything right but who it is."""
        if not self.delivered:
            return
        who, item = self.delivered[-1 - number % min(len(self.delivered), 12)]
        stranger, newest = (who + other) % AGENTS, self.book.jobs[item.job_id].epoch
        self._report(stranger, item, coordinator, "transient", newest)
        if isinstance(item, wire.IssuanceItem):
            self._submit(stranger, item, coordinator, self.csr(item, "same"), newest)

    @rule(number=NUMBERS, coordinator=COORDINATORS)
    def unasked(self, number: int, coordinator: int) -> None:
        """An agent answers for a job of its own that nobody has given to it yet."""
        jobs = [job for job in self.book.jobs.values() if job.epoch == 0]
        if not jobs:
            return
        job = jobs[number % len(jobs)]
        who = [agent.id for agent in self.stage.agents].index(job.agent)
        name = f"n{job.certificate.removeprefix('mc-')}.example.com"
        item = wire.IssuanceItem(job.id, 0, job.certificate, name, (parse_name(name),), KeyAlgorithm.ECDSA_P256)
        self._report(who, item, coordinator, "transient", 0)
        self._submit(who, item, coordinator, self.csr(item, "same"), 0)

    @rule(who=WHO, coordinator=COORDINATORS)
    def work(self, who: int, coordinator: int) -> None:
        """An agent that does all it is given, as it should be done."""
        self.poll(who=who, coordinator=coordinator, choice="all", heard=True, dies="")
        self.finish_hands(who, coordinator)

    @rule(who=WHO, coordinator=COORDINATORS, outcome=st.sampled_from(["transient", "permanent"]))
    def bad_day(self, who: int, coordinator: int, outcome: str) -> None:
        """An agent that fails in everything."""
        self.poll(who=who, coordinator=coordinator, choice="all", heard=True, dies="")
        self.compare()
        for item in list(self.processes[who].hands.values()):
            self._report(who, item, coordinator, outcome, item.lease_epoch)
            self.processes[who].hands.pop(item.job_id, None)
            self.compare()

    @rule(coordinator=COORDINATORS)
    def everybody_polls(self, coordinator: int) -> None:
        for who in range(AGENTS):
            self.poll(who=who, coordinator=coordinator, choice="all", heard=True, dies="")
            self.compare()

    def finish_hands(self, who: int, coordinator: int) -> None:
        """Do what an agent holds, as it should be done."""
        self.compare()
        for item in list(self.processes[who].hands.values()):
            if isinstance(item, wire.IssuanceItem):
                if self._submit(who, item, coordinator, self.csr(item, "same"), item.lease_epoch) == REFUSED:
                    # Its key is another job's by now, and only a new job brings a new key.
                    self._report(who, item, coordinator, "permanent", item.lease_epoch)
            else:
                self._report(who, item, coordinator, "served", item.lease_epoch)
            self.processes[who].hands.pop(item.job_id, None)
            self.compare()


def words(agent: FakeAgent, item: Any, outcome: str, epoch: int) -> wire.JobReport:
    """Return a report as an agent would write it."""
    seen = getattr(item, "fingerprint", "")
    if outcome in {"transient", "permanent"}:
        failure = wire.Failure("validate", f"a {outcome} trouble", transient=outcome == "transient")
        report = agent.report_on(item, outcome="failed", failure=failure, served_fingerprint="", undo="done")
    elif outcome == "other certificate seen":
        report = agent.report_on(item, served_fingerprint="0" * 64)
    else:
        report = agent.report_on(item, outcome=outcome, served_fingerprint=seen)
    return msgspec.structs.replace(report, lease_epoch=epoch)
