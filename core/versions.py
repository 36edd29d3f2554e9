"""Ranges of program versions, as people write them: ``>=1.2,<2``.

A version is its first numbers, up to four of them; what follows (``rc1``, ``+local``) does not count, and missing
numbers are zero. A range becomes two bounds, so that a database can compare.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from core.errors import InvalidInput

Key = tuple[int, int, int, int]
_CONDITION = re.compile(r"(>=|<=|==|>|<|=)?\s*v?(\d{1,9}(?:\.\d{1,9}){0,3})")


class Bounds(NamedTuple):
    """From ``least`` on and below ``below``; None where there is no bound."""

    least: Key | None
    below: Key | None


def version_range(text: str, *, field: str) -> Bounds:
    """Return what a comma list of conditions means, all of which have to hold; raise ``InvalidInput`` otherwise."""
    least: list[Key] = []
    below: list[Key] = []
    for part in text.split(","):
        found = _CONDITION.fullmatch(part.strip())
        if found is None:
            raise InvalidInput.of(field, f"{part.strip()[:40]!r} is not a condition like >=1.2 or <2")
        sign, key = found[1] or "==", _key(found[2])
        if sign in {">=", "==", "="}:
            least.append(key)
        if sign in {"<=", "==", "="}:
            below.append(_next(key))
        if sign == ">":
            least.append(_next(key))
        if sign == "<":
            below.append(key)
    bounds = Bounds(max(least, default=None), min(below, default=None))
    if bounds.least is not None and bounds.below is not None and bounds.least >= bounds.below:
        raise InvalidInput.of(field, f"{text[:80]!r} holds for no version")
    return bounds


def _key(text: str) -> Key:
    numbers = [int(number) for number in text.split(".")]
    first, second, third, fourth = numbers + [0] * (4 - len(numbers))
    return first, second, third, fourth


def _next(key: Key) -> Key:
    return (*key[:3], key[3] + 1)
