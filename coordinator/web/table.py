"""The route table's vocabulary: what a route is, who may call it, what a call brings to its handler.

Every room exports ``ROUTES``; dispatch, the permission matrix and the OpenAPI document are generated from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from werkzeug.datastructures import Headers

from coordinator.database.connection import Transaction
from coordinator.database.listing import EVERYTHING, Listing, Scope
from core.errors import CertctlError

if TYPE_CHECKING:
    from coordinator.context import Context


class Permission(StrEnum):
    """What a key's role may allow."""

    READ = "inventory:read"
    VIEWS = "views:own"
    CERTIFICATES_WRITE = "certificates:write"
    CERTIFICATES_BULK_REVOKE = "certificates:bulk-revoke"
    TARGETS_WRITE = "targets:write"
    AGENTS_WRITE = "agents:write"
    ISSUERS_WRITE = "issuers:write"
    PROFILES_WRITE = "profiles:write"
    POLICIES_WRITE = "policies:write"
    PEOPLE_WRITE = "people:write"
    ENROLLMENT = "enrollment:write"
    AUDIT_READ = "audit:read"
    KEYS = "keys:write"
    APPROVE = "approvals:decide"
    NOTIFICATIONS_WRITE = "notifications:write"
    LOOPS = "loops:run"


_EVERYBODYS = frozenset({Permission.READ, Permission.VIEWS})
ROLE_PERMISSIONS: dict[str, frozenset[Permission]] = {
    "viewer": _EVERYBODYS,
    "approver": _EVERYBODYS | {Permission.APPROVE},
    "auditor": _EVERYBODYS | {Permission.AUDIT_READ},
    "operator": _EVERYBODYS
    | frozenset(
        {
            Permission.CERTIFICATES_WRITE,
            Permission.TARGETS_WRITE,
            Permission.AGENTS_WRITE,
            Permission.ENROLLMENT,
            Permission.NOTIFICATIONS_WRITE,
        }
    ),
    "admin": frozenset(Permission),
}


class Access(StrEnum):
    """Who may call a route that asks for no permission."""

    OPEN = "open"
    ANY_KEY = "any key or person"
    AGENT = "the agent named in the path"


class Actor(msgspec.Struct, frozen=True):
    """Who calls. ``kind`` is anonymous, key, person, agent or system; ``id`` is the key's, person's or agent's id.

    ``expires_at`` is the end of the credential, ``session`` the id of a person's session.
    """

    kind: str = "anonymous"
    id: str = ""
    name: str = ""
    role: str = ""
    scope: Scope = EVERYTHING
    expires_at: datetime | None = None
    session: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}" if self.id else self.kind

    @property
    def permissions(self) -> frozenset[Permission]:
        """Return what this actor's role allows."""
        return ROLE_PERMISSIONS.get(self.role, frozenset())


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies and queries: an unknown field is an error that names it."""


class NoBody(Strict):
    """The route reads no body."""


class NoQuery(Strict):
    """The route reads no query parameters."""


B = TypeVar("B")
Q = TypeVar("Q")


@dataclass(frozen=True)
class Call(Generic[B, Q]):
    """One request, read and checked: typed body and query, path parameters, who calls.

    ``opened`` is the transaction of a request that creates something, see ``Route.creates``.
    """

    ctx: Context
    actor: Actor
    body: B
    query: Q
    path: dict[str, str]
    request_id: str
    headers: Headers
    address: str = ""
    """The address or network that the request is counted for, see ``limits.addresses``."""
    opened: Transaction | None = None

    @property
    def tx(self) -> Transaction:
        """Return the transaction that is committed together with the answer to an ``Idempotency-Key``."""
        assert self.opened is not None, "this route creates nothing"  # noqa: S101
        return self.opened


@dataclass(frozen=True)
class Raw:
    """An answer that is not JSON."""

    content: bytes
    content_type: str
    headers: Mapping[str, str | list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Accepted:
    """An answer of a route that ``may_take_longer``: it is not done yet (202)."""

    result: msgspec.Struct


@dataclass(frozen=True)
class Streamed:
    """An answer in pieces, for what is too long to be held in memory."""

    pieces: AsyncIterator[bytes]
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Later(ABC):
    """An answer that comes later; a handler that returns one is done, see ``coordinator.web.later``."""

    @abstractmethod
    async def answer(self, alive: Callable[[], Awaitable[None]]) -> msgspec.Struct:
        """Return the answer; call ``alive`` now and then. It must not fail."""

    @abstractmethod
    def end(self) -> None:
        """Return from ``answer`` soon: nobody waits for it any more."""

    @abstractmethod
    def close(self) -> None:
        """Forget it; called at the end, also when ``answer`` was not."""


Handler = Callable[[Call[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Route:
    """One line of the table. ``response`` is a struct type, or None for ``Raw`` answers; ``access`` has no default."""

    method: str
    path: str
    handler: Handler
    access: Access | Permission
    summary: str
    response: Any
    request: type[Any] = NoBody
    query: type[Any] = NoQuery
    status: int = 200
    errors: tuple[type[CertctlError], ...] = ()
    content_type: str = "application/json"
    other_content_types: tuple[str, ...] = ()
    """What ``Raw`` answers may be besides, as the query asks for it."""
    may_take_longer: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Header fields of its own that a request may have, and what they are for."""
    listing: Listing | None = field(default=None, hash=False)
    """The list that it reads, for the sorts in its description."""
    empty: bool = False
    """It answers 204 where there is nothing to tell."""
    conflict: type[msgspec.Struct] | None = None
    """The members that its 409 adds (RFC 9457 section 3.2)."""

    @property
    def creates(self) -> bool:
        """Say whether a request makes something new: repeated under one ``Idempotency-Key`` it does so once.

        Such a handler works in ``Call.tx``. An enrollment needs none of this: its key pair tells a repetition.
        """
        created = self.status in {HTTPStatus.CREATED, HTTPStatus.ACCEPTED}
        return self.method == "POST" and created and isinstance(self.access, Permission)
