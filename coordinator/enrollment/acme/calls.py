"""What a request of an ACME client is, once it is known who signed it, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from coordinator.certificates.service import Caller
from coordinator.enrollment.acme.jws import AccountKey, Request
from coordinator.enrollment.acme.problems import Problem
from coordinator.profiles.service import Profile
from coordinator.web.table import Actor

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.database.driver import Record as Row

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One signed request. ``base`` is the URL that the directory's paths hang on; ``account`` is empty for a jwk.

    ``found`` is what a path names that is only read, where the account has that.
    """

    ctx: Context
    profile: Profile
    base: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    request: Request
    key: AccountKey
    thumbprint: str
    account: dict[str, Any] | None
    found: Row | None
    request_id: str

    @property
    def mode(self) -> str:
        """Return how the profile authorizes names, as it is set now."""
        return self.profile.acme_auth_mode or self.ctx.settings.acme.default_mode

    @property
    def actor(self) -> Actor:
        """Return who acts, as the audit trail names it."""
        return Actor(kind="acme", id=self.account["id"] if self.account is not None else "")

    @property
    def caller(self) -> Caller:
        """Return the same with the request."""
        return Caller(self.actor, self.request_id)

    @property
    def account_id(self) -> str:
        """Return the account that signed."""
        assert self.account is not None  # noqa: S101 - the route asks for one
        return str(self.account["id"])

    @property
    def account_url(self) -> str:
        """Return that account's URL."""
        return f"{self.base}/account/{self.account_id}"

    def read(self, kind: type[T]) -> T:
        """Return the payload as a struct; raise ``Problem`` that names the wrong field."""
        try:
            return msgspec.json.decode(self.request.payload, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem("malformed", f"the payload cannot be read: {error}"[:300]) from error

    def check_post_as_get(self) -> None:
        """Raise ``Problem`` unless the payload is empty (RFC 8555 section 6.3)."""
        if self.request.payload:
            raise Problem("malformed", "this resource is read with an empty payload (POST-as-GET)")


def of_account(row: Row | None, what: str) -> Row:
    """Return what a path names; raise ``Problem`` where the account has no such thing."""
    if row is None:
        raise Problem("malformed", f"this account has no such {what}", HTTPStatus.NOT_FOUND)
    return row


@dataclass(frozen=True)
class Reply:
    """An answer: a value that becomes JSON, or bytes with their type among the headers."""

    value: Any
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()
