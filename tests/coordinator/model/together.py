"""Two calls at the same moment, one to each coordinator: the outcome must be that of some order of their steps."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.coordinator.model.book import DIED, Book
from tests.coordinator.model.comparison import check, met
from tests.coordinator.model.stage import Rows

LOOPS = {"reconcile", "renew_due"}

Step = Callable[[Book, int], int]
"""One transaction told to the book: takes what the step before gave (0 at first), gives the call's result so far."""


@dataclass(frozen=True)
class Call:
    """``send`` does it and returns a status or a count; ``steps`` are its transactions."""

    name: str
    send: Callable[[], Awaitable[int]]
    steps: Sequence[Step]


def submission(agent_id: str, job_id: str, epoch: int, spki: str) -> list[Step]:
    """Return the two transactions of a submission."""

    def accept(book: Book, _: int) -> int:
        return book.submit(agent_id, job_id, epoch, spki, dies="issuance.intent")

    return [accept, lambda book, status: book.finish(job_id) if status == DIED else status]


def counted(*parts: Callable[[Book], int]) -> list[Step]:
    """Return steps that add up what each did."""

    def adding(part: Callable[[Book], int]) -> Step:
        return lambda book, total: total + part(book)

    return [adding(part) for part in parts]


async def at_once(first: Call, second: Call) -> tuple[int, int]:
    """Make both calls together."""
    results = await asyncio.gather(first.send(), second.send())
    return results[0], results[1]


def explained(book: Book, calls: tuple[Call, Call], results: tuple[int, int], seen: dict[str, Rows]) -> Book:
    """Return the book after an order of the calls' steps that gives these results and this state."""
    reasons = []
    for order in orders(len(calls[0].steps), len(calls[1].steps)):
        told, given, places = copy.deepcopy(book), [0, 0], [0, 0]
        for who in order:
            given[who] = calls[who].steps[places[who]](told, given[who])
            places[who] += 1
        try:
            assert alike(calls, given, results)
            told = met(told, seen["jobs"])
            check(told, seen)
        except AssertionError as error:
            reasons.append(f"{order} would give {given}: {error}")
        else:
            return told
    raise AssertionError(f"{calls[0].name} with {calls[1].name} gave {results}, and no order explains it:", *reasons)


def alike(calls: tuple[Call, Call], given: Sequence[int], results: Sequence[int]) -> bool:
    """Compare results; of one loop run twice only the sum, because both take what the other has not locked."""
    shared = calls[0].name == calls[1].name and calls[0].name in LOOPS
    return sum(given) == sum(results) if shared else tuple(given) == tuple(results)


def orders(first: int, second: int) -> Iterator[tuple[int, ...]]:
    """Give every order of two sequences of steps, each kept in its own order."""
    for places in itertools.combinations(range(first + second), first):
        yield tuple(0 if place in places else 1 for place in range(first + second))
