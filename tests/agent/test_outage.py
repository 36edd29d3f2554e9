"""An hour without network, on a clock that jumps: what the agent tries, what it says, and what it does afterwards."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import structlog
import trio
from trio.testing import MockClock

from agent.backoff import JITTER, LONGEST_S, TELL_AGAIN_S
from agent.coordinator import Coordinator
from agent.exchange import CONNECT_S
from agent.identity import Identity
from core.wire import Metadata
from tests.agent.double import Double, read_request
from tests.agent.hands import Bench

pytestmark = pytest.mark.trio
HOUR_S = 3600.0
LONGEST_PAUSE_S = LONGEST_S * (1 + JITTER)
SHORTEST_LATE_PAUSE_S = LONGEST_S * (1 - JITTER)
LOOPS = 2
"""Who tries: the poll, and the report of the deployment that ended meanwhile."""
Kind = Literal["refused", "silent"]
Entries = list[MutableMapping[str, Any]]


class Body(httpx.AsyncByteStream):
    """The body of an answer, in one piece."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield it."""
        yield self._content


class Network(httpx.AsyncBaseTransport):
    """Brings requests to the double in this very loop, or not: ``gone`` says how it is broken."""

    def __init__(self, double: Double) -> None:
        self._double = double
        self._under_way: set[trio.CancelScope] = set()
        self._gone: Kind | None = None
        self.attempts: list[float] = []

    def break_down(self, gone: Kind) -> None:
        """Be gone, also for what is under way."""
        self._gone = gone
        for scope in self._under_way:
            scope.cancel()

    def mend(self) -> None:
        """Be back."""
        self._gone = None

    def attempts_between(self, start: float, end: float) -> list[float]:
        """Return when requests were tried."""
        return [at for at in self.attempts if start <= at <= end]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request there and its answer back."""
        self.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        bounds = request.extensions["timeout"]
        if self._gone == "refused":
            raise httpx.ConnectError("no route to host")
        if self._gone == "silent":
            await trio.sleep(bounds["connect"])
            raise httpx.ConnectTimeout("")
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = read_request(request.method, str(request.url), headers, await request.aread())
        with trio.CancelScope() as scope:
            self._under_way.add(scope)
            reply = await self._double.hear(asked)
        self._under_way.discard(scope)
        if not scope.cancelled_caught:
            return httpx.Response(reply.status, headers=reply.headers, stream=Body(reply.body))
        if self._gone == "refused":
            raise httpx.ReadError("connection reset")
        await trio.sleep(bounds["read"])
        raise httpx.ReadTimeout("")


@pytest.fixture
def network(double: Double) -> Network:
    return Network(double)


@pytest.fixture
async def bench(
    tmp_path: Path, identity: Identity, network: Network, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    # The clock would jump while a thread works.
    monkeypatch.setattr(trio.to_thread, "run_sync", _here)
    context = ssl.create_default_context()
    async with Coordinator("https://127.0.0.1", identity, Metadata(), context, transport=network) as client:
        bench = Bench(tmp_path / "keys", identity, client, nursery)
        yield bench
        await bench.finish()


async def _here(work: Callable[..., Any], *args: object, limiter: trio.CapacityLimiter | None = None) -> object:
    await trio.lowlevel.checkpoint()
    return work(*args)


@pytest.fixture
def logged() -> Iterator[Entries]:
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.mark.parametrize("kind", ["refused", "silent"])
async def test_an_hour_without_network(
    bench: Bench, double: Double, network: Network, logged: Entries, autojump_clock: MockClock, kind: Kind
) -> None:
    """A deployment goes on and ends, its report waits; attempts become rare, and the first one afterwards is soon."""
    bench.hands.block("job-1")
    bench.start()
    double.offer(bench.deployment("job-1"))
    await trio.sleep(100)
    assert bench.hands.begun == ["job-1"]
    assert bench.activity.connected
    gone_at = trio.current_time()
    network.break_down(kind)
    double.offer(bench.deployment("job-2"), bench.issuance("job-3"))
    await trio.sleep(200)
    bench.hands.blocked["job-1"].set()
    await trio.sleep(HOUR_S - 200)

    _few_attempts(network, gone_at, kind)
    assert bench.activity.last_error
    assert double.reports == []
    assert bench.hands.begun == ["job-1"]
    _few_words(logged)

    back_at = trio.current_time()
    network.mend()
    await trio.sleep(LONGEST_PAUSE_S + CONNECT_S)
    assert network.attempts_between(back_at, back_at + LONGEST_PAUSE_S), "within the longest pause"
    assert sorted(report.job_id for report in double.reports) == ["job-1", "job-2"]
    assert {report.outcome for report in double.reports} == {"served"}
    assert bench.activity.ended["issued"] == 1
    assert bench.activity.connected
    assert bench.hands.begun == ["job-1", "job-2"]


def _few_attempts(network: Network, gone_at: float, kind: Kind) -> None:
    """See that pauses begin short, grow to the longest one, and stay there."""
    ended_at = gone_at + HOUR_S
    if kind == "refused":
        assert len(network.attempts_between(gone_at, gone_at + 30)) >= 5
    late = network.attempts_between(gone_at + HOUR_S / 2, ended_at)
    assert len(late) <= LOOPS * (HOUR_S / 2 / SHORTEST_LATE_PAUSE_S + 1)
    assert len(late) <= LOOPS * HOUR_S / 2 / LONGEST_S * 1.4, "30 seconds on average"
    tried = [*late, ended_at]
    most = LONGEST_PAUSE_S + (CONNECT_S if kind == "silent" else 0)
    assert max(after - before for before, after in itertools.pairwise(tried)) <= most


def _few_words(logged: Entries) -> None:
    """See that the same trouble is told when it is new and every ten minutes, by each loop."""
    told = [entry for entry in logged if entry["event"] in {"poll_failed", "call_failed"}]
    assert {entry["event"] for entry in told} == {"poll_failed", "call_failed"}
    by_cause: dict[tuple[str, str], int] = {}
    for entry in told:
        key = entry["event"], entry["detail"]
        by_cause[key] = by_cause.get(key, 0) + 1
    assert max(by_cause.values()) <= HOUR_S / TELL_AGAIN_S + 1
    assert len(logged) <= LOOPS * (HOUR_S / TELL_AGAIN_S + 3)
