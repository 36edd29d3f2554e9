"""Several authorities in an order of preference: the next is asked when one cannot, or will not for now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from core.errors import Misconfigured, Transient

R = TypeVar("R")


def usable(directories: Sequence[str], blocked_until: Mapping[str, datetime], now: datetime) -> tuple[str, ...]:
    """Return the directories to try in their order, without those that asked to be left alone until later.

    When all of them did, the one that is free first is tried alone.
    """
    free = tuple(url for url in directories if url not in blocked_until or blocked_until[url] <= now)
    if free or not directories:
        return free
    return (min(directories, key=lambda url: blocked_until[url]),)


async def first_that_can(
    directories: Sequence[str],
    attempt: Callable[[str], Awaitable[R]],
    *,
    failed: Callable[[str, Transient], None] = lambda _url, _error: None,
) -> R:
    """Return what the first directory gives that does not fail in passing (``Transient``, limits of rate included).

    ``failed`` is told every such failure. What is refused for good is refused: asking another authority to do it
    would go round a rule. When all failed, raises ``Transient`` with every cause, to be tried again when the first of
    them allows it.
    """
    errors: dict[str, Transient] = {}
    for url in directories:
        try:
            return await attempt(url)
        except Transient as error:
            errors[url] = error
            failed(url, error)
    if not errors:
        raise Misconfigured("there is no authority to ask; set directory_url")
    if len(errors) == 1:
        raise next(iter(errors.values()))
    causes = "; ".join(f"{url}: {error.detail}" for url, error in errors.items())
    earliest = min(error.retry_after_s for error in errors.values())
    raise Transient(f"no authority could: {causes}", retry_after_s=earliest)
