"""Several authorities in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from connectors.issuers.acme.failover import first_that_can, usable
from connectors.issuers.acme.problems import RateLimited
from core.errors import DeadlineExceeded, Misconfigured, Refused, Transient

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "blocked,left",
    [
        ({}, ("a", "b", "c")),
        ({"a": at(1)}, ("b", "c")),
        ({"a": at(0), "b": at(5)}, ("a", "c")),
        ({"a": at(9), "b": at(5), "c": at(7)}, ("b",)),
    ],
)
def test_who_wants_to_be_left_alone_is(blocked: dict[str, datetime], left: tuple[str, ...]) -> None:
    assert usable(("a", "b", "c"), blocked, NOW) == left
    assert usable((), blocked, NOW) == ()


class Attempts:
    """Fails with what is set for a directory."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        self.errors, self.made = errors, list[str]()
        self.failed = list[str]()

    async def __call__(self, url: str) -> str:
        self.made.append(url)
        if url in self.errors:
            raise self.errors[url]
        return f"from {url}"

    def note(self, url: str, _error: Transient) -> None:
        self.failed.append(url)


@pytest.mark.anyio
async def test_the_next_is_asked_when_one_fails_in_passing() -> None:
    attempts = Attempts({"a": DeadlineExceeded("slow"), "b": RateLimited("full", retry_after_s=60)})
    assert await first_that_can(("a", "b", "c", "d"), attempts, failed=attempts.note) == "from c"
    assert (attempts.made, attempts.failed) == (["a", "b", "c"], ["a", "b"])


@pytest.mark.anyio
async def test_what_is_refused_is_not_asked_for_elsewhere() -> None:
    attempts = Attempts({"a": Refused("caa")})
    with pytest.raises(Refused, match="caa"):
        await first_that_can(("a", "b"), attempts)
    assert attempts.made == ["a"]


@pytest.mark.anyio
async def test_when_all_fail_every_cause_is_told_with_the_earliest_time() -> None:
    attempts = Attempts({"a": RateLimited("full", retry_after_s=60), "b": Transient("down", retry_after_s=5)})
    with pytest.raises(Transient, match="a: full; b: down") as caught:
        await first_that_can(("a", "b"), attempts)
    assert caught.value.retry_after_s == 5
    with pytest.raises(RateLimited):
        await first_that_can(("a",), attempts)
    with pytest.raises(Misconfigured, match="no authority"):
        await first_that_can((), attempts)
