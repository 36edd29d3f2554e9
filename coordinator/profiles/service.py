"""What a profile allows. The gate asks here for every certificate, whoever wants it and however it came in."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

import msgspec

from coordinator.database.connection import Connection
from coordinator.profiles import store
from core.errors import FieldError, Refused
from core.names import Name, NameKind

Lifetime = Annotated[int, msgspec.Meta(ge=60, le=100 * 366 * 86400)]
"""Seconds that a certificate may live: a minute to a hundred years."""


class Profile(msgspec.Struct, frozen=True):
    """A profile's rules; ``key_algorithms[0]`` is the default."""

    id: str
    name: str
    default_issuer_id: str
    key_algorithms: tuple[str, ...]
    default_lifetime_s: int
    max_lifetime_s: int
    extended_key_usages: tuple[str, ...]
    allowed_names: tuple[str, ...]
    enabled: bool

    def check(self, names: tuple[Name, ...], key_algorithm: str, lifetime_s: int) -> None:
        """Raise ``Refused`` that names every rule a wish breaks."""
        wrong: list[FieldError] = []
        if not self.enabled:
            wrong.append(FieldError("profile_id", f"profile {self.id} is switched off"))
        if key_algorithm not in self.key_algorithms:
            problem = f"is {key_algorithm}; profile {self.id} allows {', '.join(self.key_algorithms)}"
            wrong.append(FieldError("key_algorithm", problem))
        if lifetime_s > self.max_lifetime_s:
            problem = f"is {lifetime_s} s; profile {self.id} allows at most {self.max_lifetime_s} s"
            wrong.append(FieldError("lifetime_s", problem))
        wrong += [
            FieldError(f"sans[{place}]", f"{name} is not among the names that profile {self.id} allows")
            for place, name in enumerate(names)
            if not self._allows(name)
        ]
        if wrong:
            raise Refused("; ".join(f"{e.field} {e.problem}" for e in wrong), errors=tuple(wrong))

    def _allows(self, name: Name) -> bool:
        """Match a name against the patterns; ``*`` stands for any text, but never reaches across a DNS label."""
        return not self.allowed_names or any(_matches(name, pattern) for pattern in self.allowed_names)


def _matches(name: Name, pattern: str) -> bool:
    if name.kind is not NameKind.DNS:
        return fnmatchcase(name.value, pattern)
    labels, patterns = name.value.split("."), pattern.lower().split(".")
    return len(labels) == len(patterns) and all(map(fnmatchcase, labels, patterns))


async def get(conn: Connection, profile_id: str) -> Profile | None:
    """Return a profile, if it is there."""
    row = await store.get(conn, profile_id)
    return None if row is None else msgspec.convert(dict(row.items()), Profile)


async def renewal_window(conn: Connection, policy_id: str) -> tuple[bool, int | None]:
    """Return whether a renewal policy renews by itself, and its own window in days, if it has one."""
    row = await store.days_before(conn, policy_id)
    return (row["auto_renew"], row["days_before"]) if row else (True, None)


async def ensure_defaults(conn: Connection, issuer_id: str) -> None:
    """Create the ready-made rows at first start."""
    await store.ensure_defaults(conn, issuer_id)
