"""What comes back from the API, in its own words and decoded, and the paths that are asked. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from console.errors import ServerFault

T = TypeVar("T")
API = "/api/v1"

Parameters = Mapping[str, str | int | float | None]
"""A query; what is None is left out."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What the coordinator said: its words, what they mean, and the entity tag of a thing that has one."""

    raw: bytes
    value: T
    etag: str = ""


class Listing(msgspec.Struct, frozen=True):
    """Rows of a list; ``next_cursor`` is null when there are no more."""

    data: tuple[msgspec.Raw, ...]
    total: int = 0
    total_exact: bool = True
    next_cursor: str | None = None

    def rows(self, kind: type[T]) -> list[T]:
        """Return the rows decoded."""
        return [decode(row, kind) for row in self.data]


def decode(content: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Read an answer; raise ``ServerFault`` when it is not what was expected."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        detail = f"the server's answer is not what this certctl expects ({error}); do their versions differ?"
        raise ServerFault(detail) from error


def path_of(*parts: str) -> str:
    """Return an API path; whatever stands in a part cannot leave it."""
    return "/".join((API, *(quote(part, safe="") for part in parts)))
