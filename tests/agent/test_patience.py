"""How long an agent waits for work: as long as it is granted, and no longer than what lies between lets it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from agent.patience import POLL_S, SHORT_AFTER_SILENCE, SILENCE_S, Patience
from core.errors import CertctlError, DeadlineExceeded, InvalidInput, Transient
from core.wire import HEARTBEAT_S, Work

pytestmark = pytest.mark.trio
GRANTED_S = 600.0
CUT = Transient("the coordinator is not reachable: ReadError")


@pytest.fixture
async def patience() -> Patience:
    """What a loop has learned from a first answer."""
    patience = Patience()
    assert patience.next_wait_s(connected=False, busy=False) == 0
    patience.granted(Work((), GRANTED_S))
    return patience


def idle(patience: Patience, count: int = 1) -> list[float]:
    return [patience.next_wait_s(connected=True, busy=False) for _ in range(count)]


async def test_polls_are_spread_from_the_first_long_one_on(patience: Patience) -> None:
    others = [Patience() for _ in range(200)]
    for other in others:
        other.granted(Work((), GRANTED_S))
    first = [idle(other)[0] for other in others]
    later = [idle(other)[0] for other in others]
    assert POLL_S <= min(first) < GRANTED_S / 5
    assert GRANTED_S * 0.8 <= min(later) < max(later) <= GRANTED_S


async def test_with_work_in_hand_polls_are_short(patience: Patience) -> None:
    assert patience.next_wait_s(connected=True, busy=True) == POLL_S


async def test_a_coordinator_that_says_nothing_gets_short_polls() -> None:
    patience = Patience()
    patience.granted(Work())
    assert idle(patience, 3) == [POLL_S] * 3


async def test_one_that_refuses_long_waits_gets_short_ones_again(patience: Patience) -> None:
    patience.failed(InvalidInput.of("wait", "is more than 55"))
    assert patience.next_wait_s(connected=False, busy=False) == 0
    patience.granted(Work())
    assert idle(patience, 2) == [POLL_S] * 2


@pytest.mark.parametrize("error", [CUT, DeadlineExceeded("the coordinator did not answer in time")])
async def test_after_silence_polls_are_short_for_a_while(
    patience: Patience, autojump_clock: MockClock, error: CertctlError
) -> None:
    idle(patience)
    await trio.sleep(SILENCE_S + 1)
    patience.failed(error)
    assert idle(patience, SHORT_AFTER_SILENCE) == [POLL_S] * SHORT_AFTER_SILENCE
    idle(patience)
    assert idle(patience)[0] > GRANTED_S / 2


async def test_a_coordinator_that_goes_away_between_signs_of_life_is_asked_for_long_waits_again(
    patience: Patience, autojump_clock: MockClock
) -> None:
    idle(patience)
    for _ in range(3):
        await trio.sleep(HEARTBEAT_S)
        patience.heard()
    await trio.sleep(HEARTBEAT_S - 1)
    patience.failed(CUT)
    patience.next_wait_s(connected=False, busy=False)
    assert idle(patience)[0] > GRANTED_S / 2
