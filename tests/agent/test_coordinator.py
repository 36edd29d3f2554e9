"""The client: what each answer means, tokens and their renewal, bounds in time and size, nothing told to others."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator

import msgspec
import pytest
import structlog
import trio
from trio.testing import MockClock

from agent import exchange
from agent.coordinator import Coordinator
from agent.identity import Identity
from core import errors
from core.errors import CertctlError, DeadlineExceeded, Transient, Unauthenticated
from core.wire import PROTOCOL_HEADER, PROTOCOL_VERSION, TIME_HEADER, CSRSubmission, Work
from tests.agent.double import Asked, Double, Reply, problem

pytestmark = pytest.mark.trio
SUBMISSION = CSRSubmission(1, b"csr")


@pytest.fixture
def patient_clock() -> MockClock:
    """Jumps over waits of the program, not over the moments that a connection on this host takes."""
    return MockClock(autojump_threshold=0.3)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Everything that is logged, by structlog and by libraries at their most talkative."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as entries:
        lines: list[str] = []
        yield lines
        lines += [record.getMessage() for record in caplog.records] + [repr(entry) for entry in entries]


async def test_a_poll_says_who_asks_and_what_is_in_hand(client: Coordinator, double: Double) -> None:
    assert await client.poll("boot1234", ["job-1", "job-2"], 0.01) == Work()
    (asked,) = double.of("work")
    assert (asked.parts, asked.query) == (("ag-1",), {"boot": "boot1234", "held": "job-1,job-2", "wait": "0.01"})
    assert asked.headers[PROTOCOL_HEADER.lower()] == str(PROTOCOL_VERSION)
    assert asked.headers[TIME_HEADER.lower()].isdigit()
    assert asked.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "reply, kind",
    [
        (problem(400, "invalid-input"), errors.InvalidInput),
        (problem(401, "unauthenticated"), errors.Unauthenticated),
        (problem(403, "forbidden"), errors.Forbidden),
        (problem(404, "not-found"), errors.NotFound),
        (problem(409, "conflict"), errors.Conflict),
        (problem(409, "stale-lease"), errors.StaleLease),
        (problem(410, "gone"), errors.Gone),
        (problem(413, "too-large"), errors.TooLarge),
        (problem(415, "unsupported-media"), errors.UnsupportedMedia),
        (problem(422, "refused"), errors.Refused),
        (problem(405, "method"), errors.Permanent),
        (problem(408, "slow"), errors.Transient),
        (problem(429, "busy"), errors.TooManyRequests),
        (problem(500, "internal"), errors.Transient),
        (problem(503, "transient"), errors.Transient),
        (problem(504, "deadline-exceeded"), errors.Transient),
    ],
)
async def test_each_verdict_has_its_type_and_the_coordinators_words(
    client: Coordinator, double: Double, reply: Reply, kind: type[CertctlError]
) -> None:
    double.instead["csr"] = [reply, reply]
    with pytest.raises(CertctlError, match="these are the words") as caught:
        await client.submit_csr("job-1", SUBMISSION)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "field, wait_s", [("7", 7), ("0", 0), ("999999999", 300), ("-1", 0), ("", 0), ("Fri, 01 Jan 2027 00:00:00 GMT", 0)]
)
@pytest.mark.parametrize("reply", [problem(429, "too-many-requests"), problem(503, "transient"), Reply(429, b"<html>")])
async def test_an_answer_says_when_to_come_back(
    client: Coordinator, double: Double, reply: Reply, field: str, wait_s: float
) -> None:
    double.instead["csr"] = [msgspec.structs.replace(reply, headers=(*reply.headers, ("Retry-After", field)))]
    with pytest.raises(Transient) as caught:
        await client.submit_csr("job-1", SUBMISSION)
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 500, 502])
@pytest.mark.parametrize("body", [b"", b"<html>410 Gone</html>", b'{"error": "gone"}', b"\xff\xfe", b"[]"])
async def test_what_something_in_between_says_is_no_verdict(
    client: Coordinator, double: Double, status: int, body: bytes
) -> None:
    double.instead["csr"] = [Reply(status, body)]
    with pytest.raises(Transient, match=f"HTTP status {status} from something that is not a coordinator"):
        await client.submit_csr("job-1", SUBMISSION)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"state": "maybe"}', b"\xff", gzip.compress(b'{"state": "pending"}', mtime=0)]
)
async def test_a_success_that_cannot_be_read_may_pass(client: Coordinator, double: Double, body: bytes) -> None:
    double.instead["csr"] = [Reply(200, body, (("Content-Encoding", "gzip"),))]
    with pytest.raises(Transient, match="cannot be read"):
        await client.submit_csr("job-1", SUBMISSION)


async def test_redirects_are_not_followed(client: Coordinator, double: Double) -> None:
    double.instead["csr"] = [Reply(307, b"", (("Location", f"{double.url}/api/v1/agents/ag-2/jobs/x/csr"),))]
    with pytest.raises(Transient, match="HTTP status 307"):
        await client.submit_csr("job-1", SUBMISSION)
    assert [asked.parts for asked in double.of("csr")] == [("ag-1", "job-1")]


async def test_a_huge_answer_is_cut(client: Coordinator, double: Double) -> None:
    double.instead["work"] = [Reply(body=b" " * 4 * exchange.MOST_BYTES), Reply(body=b" " * (exchange.MOST_BYTES + 1))]
    for _ in range(2):
        with pytest.raises(Transient, match="longer than"):
            await client.poll("boot1234", [], 0)
    assert await client.poll("boot1234", [], 0) == Work()


async def test_one_token_serves_many_calls_at_once(client: Coordinator, double: Double) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client.poll, "boot1234", [], 0)
    assert len(double.of("token")) == 1
    assert {asked.headers["authorization"] for asked in double.of("work")} == {f"Bearer {double.sessions.pop()}"}


async def test_a_token_that_is_no_longer_taken_is_renewed_once(client: Coordinator, double: Double) -> None:
    await client.poll("boot1234", [], 0)
    double.sessions.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client.poll, "boot1234", [], 0)
    assert len(double.of("token")) == 2
    double.instead["work"] = [problem(401, "unauthenticated"), problem(401, "unauthenticated")]
    with pytest.raises(Unauthenticated):
        await client.poll("boot1234", [], 0)
    assert double.instead["work"] == []


@pytest.mark.parametrize("expires_in_s, before_s, after_s", [(3600, 3470, 20), (60, 25, 10)])
async def test_a_token_is_renewed_before_its_end(
    client: Coordinator,
    double: Double,
    patient_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    expires_in_s: int,
    before_s: float,
    after_s: float,
) -> None:
    monkeypatch.setattr("random.uniform", lambda _earliest, latest: latest)
    double.expires_in_s = expires_in_s
    await client.poll("boot1234", [], 0)
    await trio.sleep(before_s)
    await client.poll("boot1234", [], 0)
    assert len(double.of("token")) == 1
    await trio.sleep(after_s)
    await client.poll("boot1234", [], 0)
    assert len(double.of("token")) == 2


async def test_a_first_token_is_renewed_at_any_time_and_a_later_one_near_its_end(
    client: Coordinator, double: Double, patient_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda earliest, _latest: earliest)
    for tokens, pause_s in ((1, 340), (1, 10), (2, 3100), (2, 40), (3, 0)):
        await client.poll("boot1234", [], 0)
        assert len(double.of("token")) == tokens
        await trio.sleep(pause_s)


async def test_an_agent_that_is_not_known_is_told_so(client: Coordinator, double: Double) -> None:
    double.instead["nonce"] = [problem(404, "not-found", "there is no agent ag-1; enroll first")]
    with pytest.raises(errors.NotFound, match="enroll first"):
        await client.poll("boot1234", [], 0)


async def test_silence_ends_in_time(client: Coordinator, double: Double, patient_clock: MockClock) -> None:
    double.instead["work"] = [Reply(after=trio.Event())]
    started = trio.current_time()
    with pytest.raises(DeadlineExceeded, match="did not answer GET /api/v1/agents/ag-1/work in time"):
        await client.poll("boot1234", [], 40)
    assert 69 < trio.current_time() - started < 82


async def test_an_answer_in_drops_ends_in_time(client: Coordinator, double: Double, patient_clock: MockClock) -> None:
    double.instead["csr"] = [Reply(slowly=True)]
    started = trio.current_time()
    with pytest.raises(DeadlineExceeded):
        await client.submit_csr("job-1", SUBMISSION)
    assert 39 < trio.current_time() - started < 42


async def test_a_coordinator_that_is_away_is_named_with_its_cause(
    client: Coordinator, double: Double, nursery: trio.Nursery
) -> None:
    nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope(shield=True), pytest.raises(Transient, match=r"not reachable: .*refused"):
        await client.poll("boot1234", [], 0)


async def test_credentials_are_not_logged_and_not_in_errors(
    logged: list[str], client: Coordinator, double: Double, identity: Identity
) -> None:
    caught: list[str] = []
    await client.poll("boot1234", [], 0)
    secrets = [*double.sessions]
    double.instead["work"] = [problem(403, "forbidden")]
    try:
        await client.poll("boot1234", [], 0)
    except CertctlError as error:
        caught.append(repr(error) + repr(error.__cause__))
    secrets += [asked.headers["authorization"] for asked in double.of("work")]
    assert len(secrets) == 3
    assert len(caught) == 1
    assert not [secret for secret in secrets for text in (*caught, *logged, repr(client)) if secret in text]


def _is_signed_in(asked: Asked) -> bool:
    return "authorization" in asked.headers


async def test_the_token_goes_to_the_agents_own_routes_alone(client: Coordinator, double: Double) -> None:
    await client.poll("boot1234", [], 0)
    assert {asked.route for asked in double.asked if _is_signed_in(asked)} == {"work"}
