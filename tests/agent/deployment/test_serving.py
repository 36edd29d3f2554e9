"""When a certificate counts as served, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from agent.deployment.prepare import Endpoint
from agent.deployment.service import SETTLE_S, is_served, served_after_undo, wait_until_served
from connectors.probes.tls import Observation
from core.errors import DeadlineExceeded, Transient

ENDPOINT = Endpoint("127.0.0.1", 443, "a.test", 10)

pytestmark = pytest.mark.trio


class Server:
    """Answers each look as a function of the seconds since the start and the number of the look."""

    def __init__(self, answer: Callable[[float, int], str]) -> None:
        self._answer = answer
        self._start = trio.current_time()
        self.looks = 0

    @property
    def age(self) -> float:
        return trio.current_time() - self._start

    async def __call__(
        self, host: str, port: int, *, sni: str = "", timeout_s: float = 10.0, protocol: str = "tls"
    ) -> Observation:
        self.looks += 1
        seen = self._answer(self.age, self.looks)
        if not seen:
            raise Transient("nothing answers")
        return Observation(b"", seen, "TLSv1.3", 1)


async def test_a_certificate_that_is_served_at_once_is_watched_until_old_workers_are_gone(
    autojump_clock: MockClock,
) -> None:
    server = Server(lambda _age, _look: "new")
    await wait_until_served(ENDPOINT, "new", server)
    assert SETTLE_S <= server.age < SETTLE_S + 0.02
    assert server.looks == 4


@pytest.mark.parametrize("old_for_s", [0.05, 0.1, 1.0, 5.0])
async def test_old_workers_that_answer_now_and_then_are_waited_for(old_for_s: float, autojump_clock: MockClock) -> None:
    server = Server(lambda age, look: "old" if age < old_for_s and look % 4 == 0 else "new")
    await wait_until_served(ENDPOINT, "new", server)
    assert server.age >= SETTLE_S


async def test_a_late_server_is_seen_within_a_tenth(autojump_clock: MockClock) -> None:
    server = Server(lambda age, _look: "new" if age > 3 else "")
    await wait_until_served(ENDPOINT, "new", server)
    assert server.age < 3 + SETTLE_S + 0.3


async def test_what_is_seen_instead_is_told(autojump_clock: MockClock) -> None:
    server = Server(lambda _age, _look: "other")
    with pytest.raises(DeadlineExceeded, match="serves the certificate other"):
        await wait_until_served(ENDPOINT, "new", server)
    assert server.age == pytest.approx(10)
    with pytest.raises(DeadlineExceeded, match="nothing answers"):
        await wait_until_served(ENDPOINT, "new", Server(lambda _age, _look: ""))


async def test_one_stray_answer_does_not_count(autojump_clock: MockClock) -> None:
    server = Server(lambda _age, look: "new" if look % 3 else "old")
    with pytest.raises(DeadlineExceeded):
        await wait_until_served(ENDPOINT, "new", server)


async def test_what_is_served_already_is_known_at_once(autojump_clock: MockClock) -> None:
    server = Server(lambda _age, _look: "new")
    assert await is_served(ENDPOINT, "new", server)
    assert server.age == 0
    assert not await is_served(ENDPOINT, "other", server)
    assert server.age < 1


async def test_after_an_undo_the_unwanted_must_go(autojump_clock: MockClock) -> None:
    assert await served_after_undo(ENDPOINT, "new", Server(lambda age, _look: "new" if age < 1 else "old")) == "old"
    assert await served_after_undo(ENDPOINT, "new", Server(lambda _age, _look: "new")) == "new"
    assert await served_after_undo(ENDPOINT, "new", Server(lambda _age, _look: "")) == ""
