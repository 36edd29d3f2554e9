"""Doing a thing for many, some at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from core.errors import CertctlError

T = TypeVar("T")
R = TypeVar("R")
AT_ONCE = 8


async def for_each(items: Sequence[T], do: Callable[[T], Awaitable[R]], at_once: int = AT_ONCE) -> list[R]:
    """Return what ``do`` gives for each item, in their order. All are tried; the first one's error is raised then."""
    results: dict[int, R] = {}
    errors: dict[int, CertctlError] = {}
    limiter = anyio.CapacityLimiter(at_once)

    async def run(place: int, item: T) -> None:
        async with limiter:
            try:
                results[place] = await do(item)
            except CertctlError as error:
                errors[place] = error

    async with anyio.create_task_group() as group:
        for place, item in enumerate(items):
            group.start_soon(run, place, item)
    if errors:
        raise errors[min(errors)]
    return [results[place] for place in range(len(items))]
