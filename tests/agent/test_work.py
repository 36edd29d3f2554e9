"""Work from a coordinator's double: what is said to be in hand, what is reported, what is left, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio

from agent.coordinator import Coordinator
from agent.deployment.outcome import DeploymentOutcome
from agent.heads import FILE
from agent.identity import Identity
from agent.patience import POLL_S
from core.wire import AuditHead, CSRSubmission, Failure, Step, Work
from tests.agent.double import Asked, Double, Reply, problem
from tests.agent.hands import Bench

pytestmark = pytest.mark.trio
Entries = list[MutableMapping[str, Any]]


@pytest.fixture
async def bench(
    tmp_path: Path, identity: Identity, client: Coordinator, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setattr("agent.backoff.FIRST_S", 0.01)
    bench = Bench(tmp_path / "keys", identity, client, nursery)
    yield bench
    await bench.finish()


@pytest.fixture
async def working(bench: Bench) -> Bench:
    """The bench with its worker running."""
    bench.start()
    return bench


@pytest.fixture
def logged() -> Iterator[Entries]:
    with structlog.testing.capture_logs() as entries:
        yield entries


def reported(double: Double) -> dict[str, tuple[str, str]]:
    """Return outcome and cause by job."""
    return {r.job_id: (r.outcome, r.failure.cause if r.failure else "") for r in double.reports}


def long_polls(double: Double) -> list[Asked]:
    """Return the polls that wait for work: all but those that only find the coordinator."""
    return [asked for asked in double.of("work") if asked.query["wait"] == f"{POLL_S:g}"]


async def polls(double: Double, count: int) -> None:
    """Wait until so many polls have come that wait for work."""
    await double.until(lambda: len(long_polls(double)) == count)


async def test_an_issuance_ends_with_a_certificate_in_the_keystore(working: Bench, double: Double) -> None:
    double.offer(working.issuance("job-1", epoch=7))
    await double.until(lambda: working.activity.ended["issued"] and not working.activity.held)
    (asked,) = double.of("csr")
    submission = asked.read(CSRSubmission)
    assert (asked.parts, submission.lease_epoch) == (("ag-1", "job-1"), 7)
    assert submission.key_ms > 0
    assert submission.csr_ms > 0
    assert {path.suffix for path in (working.keys_folder / "mc-job-1").iterdir()} == {"", ".pem"}
    assert double.reports == []


async def test_an_answer_that_is_to_come_keeps_the_request(working: Bench, double: Double) -> None:
    double.answer_state = "pending"
    double.offer(working.issuance("job-1"))
    await double.until(lambda: double.of("csr") and not working.activity.held)
    assert {path.suffix for path in (working.keys_folder / "mc-job-1").iterdir()} == {"", ".request"}
    assert working.activity.ended["issued"] == 0


async def test_an_answer_that_took_persons_days_is_fetched_later(
    working: Bench, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.work.COLLECT_EVERY_S", 0.02)
    double.answer_state = "pending"
    double.offer(working.issuance("job-1"))
    await double.until(lambda: len(double.of("csr")) > 3)
    assert len({asked.read(CSRSubmission).csr for asked in double.of("csr")}) == 1
    double.answer_state = "issued"
    folder = working.keys_folder / "mc-job-1"
    await double.until(lambda: {path.suffix for path in folder.iterdir()} == {"", ".pem"})
    asked = len(double.of("csr"))
    await trio.sleep(0.1)
    assert len(double.of("csr")) == asked


async def test_an_answer_that_comes_as_a_deployment_settles_its_request(working: Bench, double: Double) -> None:
    double.answer_state = "pending"
    double.offer(working.issuance("job-1"))
    await double.until(lambda: double.of("csr") and not working.activity.held)
    folder = working.keys_folder / "mc-job-1"
    (request,) = folder.glob("*.request")
    leaf = double.sign(double.of("csr")[0].read(CSRSubmission).csr)
    item = working.deployment("job-2")
    fields = {"certificate_id": "mc-job-1", "spki_sha256": request.stem, "chain": (leaf,)}
    double.offer(msgspec.structs.replace(item, **fields))
    await double.until(lambda: double.reports and not working.activity.held)
    assert {path.suffix for path in folder.iterdir()} == {"", ".pem"}


async def test_a_deployment_gets_its_key_and_is_reported_signed(working: Bench, double: Double) -> None:
    item = working.deployment("job-1")
    steps = (Step("staged", 1.5), Step("served", 20.25, "seen thrice"))
    working.hands.ends["job-1"] = DeploymentOutcome(outcome="served", steps=steps, served_fingerprint="f" * 64)
    double.offer(item)
    await double.until(lambda: double.reports)
    (report,) = double.reports
    assert (report.agent_id, report.job_id, report.lease_epoch) == ("ag-1", "job-1", 3)
    assert (report.outcome, report.steps, report.served_fingerprint) == ("served", steps, "f" * 64)
    assert working.hands.keys["job-1"] == working.keystore.key(item.certificate_id, item.spki_sha256)
    assert working.activity.ended["served"] == 1


async def test_what_is_in_hand_is_said_with_each_poll(working: Bench, double: Double) -> None:
    working.hands.block("job-1", "job-2")
    await polls(double, 1)
    for number in (1, 2):
        double.offer(working.deployment(f"job-{number}"))
        await polls(double, number + 1)
    assert [asked.query["held"] for asked in long_polls(double)] == ["", "job-1", "job-1,job-2"]
    assert {asked.query["boot"] for asked in double.of("work")} == {working.activity.boot}
    await double.until(lambda: sorted(working.hands.begun) == ["job-1", "job-2"])
    working.hands.blocked["job-1"].set()
    await double.until(lambda: list(working.activity.held) == ["job-2"])
    double.offer(working.deployment("job-3"))
    await polls(double, 4)
    assert long_polls(double)[-1].query["held"].split(",")[0] == "job-2"


async def test_the_head_that_a_poll_brings_is_kept(bench: Bench, double: Double, tmp_path: Path) -> None:
    head = AuditHead(7, "ab" * 32, 3, "key", b"signature", datetime(2026, 1, 1, tzinfo=UTC))
    double.audit_head = head
    bench.start()
    double.offer(bench.issuance("job-1"))
    await double.until(lambda: bool(bench.activity.ended["issued"]) and not bench.activity.held)
    (line,) = (tmp_path / FILE).read_bytes().splitlines()
    assert msgspec.json.decode(line, type=AuditHead) == head


async def test_the_first_poll_does_not_wait(working: Bench, double: Double) -> None:
    await polls(double, 1)
    assert [asked.query["wait"] for asked in double.of("work")] == ["0", f"{POLL_S:g}"]
    assert working.activity.silent_s() < POLL_S


async def test_an_agent_waits_as_long_as_it_is_granted_and_lives_by_the_signs_of_life(
    bench: Bench, double: Double
) -> None:
    granted = msgspec.json.encode(Work((), 600, 20))
    double.instead["work"] = [Reply(body=granted), Reply(body=b" ", slowly=True)]
    bench.start()
    await double.until(lambda: len(double.of("work")) == 2)
    assert POLL_S <= float(double.of("work")[1].query["wait"]) <= 600
    bench.activity.note_trouble("not heard yet")
    await double.until(lambda: bench.activity.connected)


async def test_what_is_in_hand_already_is_not_begun_again(working: Bench, double: Double) -> None:
    working.hands.block("job-1")
    item = working.deployment("job-1")
    await polls(double, 1)
    for count in (2, 3):
        double.offer(item)
        await polls(double, count)
    working.hands.blocked["job-1"].set()
    await double.until(lambda: not working.activity.held)
    assert working.hands.begun == ["job-1"]
    assert len(double.reports) == 1


async def test_a_report_is_repeated_until_it_is_stored(working: Bench, double: Double) -> None:
    double.instead["result"] = [
        problem(503, "transient"),
        Reply(502, b"<html>"),
        Reply(200, b"?"),
        problem(429, "busy"),
    ]
    double.offer(working.deployment("job-1"))
    await double.until(lambda: double.reports)
    asked = double.of("result")
    assert len(asked) == 5
    assert len({each.body for each in asked}) == 1


@pytest.mark.parametrize(
    "reply", [problem(409, "stale-lease"), problem(404, "not-found"), problem(400, "invalid-input")]
)
async def test_a_report_that_is_not_wanted_is_dropped(working: Bench, double: Double, reply: Reply) -> None:
    double.instead["result"] = [reply]
    double.offer(working.deployment("job-1"))
    await double.until(lambda: double.of("result") and not working.activity.held)
    double.offer(working.deployment("job-2"))
    await double.until(lambda: double.reports)
    assert reported(double) == {"job-2": ("served", "")}


@pytest.mark.parametrize("reply", [problem(409, "stale-lease"), problem(404, "not-found")])
async def test_an_issuance_that_is_somebody_elses_by_now_is_dropped(
    working: Bench, double: Double, reply: Reply
) -> None:
    double.instead["csr"] = [reply]
    double.offer(working.issuance("job-1"))
    await double.until(lambda: double.of("csr") and not working.activity.held)
    assert double.of("result") == []


@pytest.mark.parametrize(
    "reply",
    [
        problem(409, "conflict", "job-1 was answered with another key already"),
        problem(422, "refused", "the profile does not allow this name"),
        problem(400, "invalid-input", "csr: is not readable"),
    ],
)
async def test_a_refused_request_is_a_failure_in_the_coordinators_words(
    working: Bench, double: Double, reply: Reply
) -> None:
    double.instead["csr"] = [reply]
    double.offer(working.issuance("job-1", epoch=7))
    await double.until(lambda: double.reports)
    (report,) = double.reports
    words = msgspec.json.decode(reply.body)["detail"]
    assert (report.outcome, report.lease_epoch, report.failure) == ("failed", 7, Failure("issuance", words, False))


async def test_what_this_host_cannot_do_is_a_failure(working: Bench, double: Double) -> None:
    (working.keys_folder / "mc-job-1").write_text("a file in the way")
    double.offer(
        working.issuance("job-1"),
        working.issuance("job-2", algorithm="x-9"),
        working.deployment("job-3", with_key=False),
    )
    await double.until(lambda: len(double.reports) == 3)
    found = {report.job_id: report.failure for report in double.reports}
    causes = {job_id: (failure.cause, failure.transient) for job_id, failure in found.items() if failure}
    assert causes["job-1"][0].startswith("keeping a private key failed")
    assert causes["job-1"][1]
    assert causes["job-2"] == ("key_algorithm: is 'x-9', which this agent does not know", False)
    assert "is not on this host" in causes["job-3"][0]


async def test_a_defect_in_one_job_is_its_failure_and_the_others_go_on(
    working: Bench, double: Double, logged: Entries
) -> None:
    working.hands.block("job-2")
    working.hands.ends["job-1"] = ValueError("with some detail")
    double.offer(working.deployment("job-1"), working.deployment("job-2"))
    await double.until(lambda: double.reports)
    working.hands.blocked["job-2"].set()
    await double.until(lambda: len(double.reports) == 2)
    assert reported(double) == {
        "job-1": ("failed", "the agent failed unexpectedly (ValueError); its log says more"),
        "job-2": ("served", ""),
    }
    assert [entry["event"] for entry in logged if "exc_info" in entry] == ["job_crashed"]


async def test_a_report_that_cannot_be_made_takes_nothing_down(working: Bench, double: Double, logged: Entries) -> None:
    working.hands.block("job-2")
    working.hands.ends["job-1"] = DeploymentOutcome(outcome="served", steps=(object(),))  # type: ignore[arg-type]
    double.offer(working.deployment("job-1"), working.deployment("job-2"))
    await double.until(lambda: list(working.activity.held) == ["job-2"])
    working.hands.blocked["job-2"].set()
    await double.until(lambda: double.reports)
    assert reported(double) == {"job-2": ("served", "")}
    assert "job_crashed" in {entry["event"] for entry in logged}


async def test_a_job_whose_end_was_heard_is_put_down_at_once(
    working: Bench, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.backoff.FIRST_S", 60)
    failed = DeploymentOutcome(outcome="failed", failure=Failure("staged", "the disk is full"))
    working.hands.ends["job-2"] = failed
    double.offer(working.deployment("job-1"), working.deployment("job-2"), working.issuance("job-3"))
    await double.until(lambda: len(double.reports) == 2 and double.of("csr") and not working.activity.held)
    double.instead["result"] = [problem(409, "stale-lease")]
    double.offer(working.deployment("job-4"))
    await double.until(lambda: not double.instead["result"] and not working.activity.held)


@pytest.mark.parametrize("defect", ["refused", "crashed"])
async def test_a_job_whose_end_is_not_heard_comes_back_later_and_later(
    working: Bench, double: Double, monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    """The coordinator offers at once what an agent does not hold; four rounds take eight first pauses, not none."""
    monkeypatch.setattr("agent.backoff.JITTER", 0.0)
    if defect == "refused":
        double.instead["result"] = [problem(400, "invalid-input") for _ in range(4)]
    else:
        working.hands.ends["job-1"] = DeploymentOutcome(outcome="served", steps=(object(),))  # type: ignore[arg-type]
    item, started = working.deployment("job-1"), trio.current_time()
    for number in range(1, 5):
        double.offer(item)
        await double.until(
            partial(lambda count: len(working.hands.begun) == count and not working.activity.held, number)
        )
    assert trio.current_time() - started >= (1 + 2 + 4 + 8) * 0.01
    working.hands.ends.pop("job-1", None)
    double.offer(item)
    await double.until(lambda: double.reports)
    assert reported(double) == {"job-1": ("served", "")}


async def test_old_keys_that_cannot_be_removed_take_nothing_down(
    working: Bench, double: Double, logged: Entries
) -> None:
    working.hands.block("job-1")
    item = working.deployment("job-1")
    double.offer(item)
    await double.until(lambda: working.hands.begun)
    (working.keys_folder / item.certificate_id).rename(working.keys_folder / "moved away")
    working.hands.blocked["job-1"].set()
    await double.until(lambda: double.reports and not working.activity.held)
    double.offer(working.deployment("job-2"))
    await double.until(lambda: len(double.reports) == 2)
    assert "old_keys_left" in {entry["event"] for entry in logged}


async def test_a_crash_of_polling_leaves_alone_what_is_in_hand(
    bench: Bench, double: Double, client: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes, poll = [ValueError("a defect")], client.poll

    async def stumble(boot: str, held: list[str], wait_s: float, alive: Callable[[], None] | None = None) -> Work:
        if held and crashes:
            raise crashes.pop()
        return await poll(boot, held, wait_s, alive)

    monkeypatch.setattr(client, "poll", stumble)
    bench.hands.block("job-1")
    bench.start()
    double.offer(bench.deployment("job-1"))
    await double.until(lambda: not crashes and double.of("work")[-1].query["held"] == "job-1")
    bench.hands.blocked["job-1"].set()
    await double.until(lambda: double.reports)
    assert reported(double) == {"job-1": ("served", "")}


async def test_a_coordinator_that_is_away_is_told_once_and_polled_again(
    bench: Bench, double: Double, logged: Entries
) -> None:
    double.instead["work"] = [problem(503, "transient", "the database is away")] * 4 + [problem(500, "internal", "oh")]
    bench.start()
    await double.until(lambda: bench.activity.last_error == "oh")
    double.offer(bench.deployment("job-1"))
    await double.until(lambda: double.reports)
    assert (bench.activity.connected, bench.activity.last_error) == (True, "")
    assert [entry["detail"] for entry in logged if entry["event"] == "poll_failed"] == ["the database is away", "oh"]


async def test_a_stop_finishes_what_is_in_hand_and_takes_no_more(working: Bench, double: Double) -> None:
    working.hands.block("job-1", "job-2")
    double.offer(working.deployment("job-1"), working.deployment("job-2"))
    await double.until(lambda: len(working.hands.begun) == 2)
    working.stopping.set()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not working.ended.is_set()
    double.offer(working.deployment("job-3"))
    working.hands.blocked["job-2"].set()
    working.hands.blocked["job-1"].set()
    await working.has_ended()
    assert reported(double) == {"job-1": ("served", ""), "job-2": ("served", "")}


async def test_a_stop_does_not_wait_for_a_coordinator_that_is_away(
    working: Bench, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.backoff.FIRST_S", 1000.0)
    double.instead["result"] = [problem(503, "transient")] * 3
    double.instead["csr"] = [problem(503, "transient")] * 3
    double.offer(working.deployment("job-1"), working.issuance("job-2"))
    await double.until(lambda: double.of("result") and double.of("csr"))
    working.stopping.set()
    await working.has_ended()
    assert (len(double.of("result")), len(double.of("csr"))) == (2, 2)
    assert double.reports == []
    assert not working.worker.retired


@pytest.mark.parametrize("route", ["work", "result", "csr"])
async def test_a_retired_agent_finishes_what_is_in_hand_and_ends(working: Bench, double: Double, route: str) -> None:
    working.hands.block("job-1")
    await polls(double, 1)
    double.offer(working.deployment("job-1"))
    await polls(double, 2)
    double.instead[route] = [problem(410, "gone", "agent ag-1 was retired")]
    double.offer(working.deployment("job-2"), working.issuance("job-3"))
    await double.until(lambda: working.worker.retired)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not working.ended.is_set()
    working.hands.blocked["job-1"].set()
    await working.has_ended()
    assert working.worker.retired == "agent ag-1 was retired"
    assert "job-1" in reported(double)


async def test_a_goodbye_of_something_in_between_retires_nobody(working: Bench, double: Double) -> None:
    double.instead["work"] = [Reply(410, b"<html>Gone</html>")]
    double.offer(working.deployment("job-1"))
    await double.until(lambda: double.reports)
    assert not working.worker.retired


async def test_what_was_issued_while_it_was_away_is_fetched_at_the_start(bench: Bench, double: Double) -> None:
    """A request without an answer, under a lease that is none: whatever the coordinator knows of it is heard."""
    unanswered = {bench.keystore.request_for(bench.issuance(f"job-{number}")).csr for number in range(4)}
    double.instead["csr"] = [problem(422, "refused"), problem(409, "stale-lease"), problem(503, "transient")]
    bench.start()
    await double.until(lambda: len(list(bench.keys_folder.glob("*/*.pem"))) == 2)
    asked = [each.read(CSRSubmission) for each in double.of("csr")]
    assert {each.csr for each in asked} == unanswered
    assert {each.lease_epoch for each in asked} == {0}
    await double.until(lambda: len(list(bench.keys_folder.glob("*/*.request"))) == 2)
    assert double.of("result") == []


async def test_an_agent_that_was_retired_while_it_was_away_ends(bench: Bench, double: Double) -> None:
    bench.keystore.request_for(bench.issuance("job-1"))
    double.instead["csr"] = [problem(410, "gone", "agent ag-1 was retired")]
    bench.start()
    await bench.has_ended()
    assert bench.worker.retired == "agent ag-1 was retired"
