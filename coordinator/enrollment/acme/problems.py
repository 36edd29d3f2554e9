"""Problem documents of ACME (RFC 8555 section 6.7): an error of its own, and what certctl's errors are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from core.acme import URN
from core.errors import (
    CertctlError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Refused,
    TooLarge,
    TooManyRequests,
    Transient,
    Unauthenticated,
)
from core.problems import status_of

_STATUS = {
    "unauthorized": 403,
    "userActionRequired": 403,
    "orderNotReady": 403,
    "externalAccountRequired": 403,
    "caa": 403,
    "rejectedIdentifier": 403,
    "rateLimited": 429,
    "serverInternal": 500,
    "unsupportedContentType": 415,
}
"""The others are 400."""
_OURS: tuple[tuple[type[CertctlError], str], ...] = (
    (TooManyRequests, "rateLimited"),
    (Refused, "rejectedIdentifier"),
    (Unauthenticated, "unauthorized"),
    (Forbidden, "unauthorized"),
    (InvalidInput, "malformed"),
    (TooLarge, "malformed"),
    (NotFound, "malformed"),
    (Conflict, "malformed"),
    (Transient, "serverInternal"),
)


@dataclass
class Problem(Exception):
    """A refusal: ``kind`` is the error's name without its URN.

    ``subproblems`` are (kind, detail, identifier) of single names (section 6.7.1); ``members`` are more fields.
    """

    kind: str
    detail: str
    status: int = 0
    subproblems: Sequence[tuple[str, str, Mapping[str, str]]] = ()
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """Return the HTTP status."""
        return self.status or _STATUS.get(self.kind, 400)

    def document(self) -> dict[str, Any]:
        """Return what is sent, and what is stored in orders and challenges."""
        kind = "malformed" if self.kind == "unsupportedContentType" else self.kind
        found: dict[str, Any] = {"type": URN + kind, "detail": self.detail, "status": self.code, **self.members}
        if self.subproblems:
            found["subproblems"] = [
                {"type": URN + each, "detail": detail, "identifier": dict(identifier)}
                for each, detail, identifier in self.subproblems
            ]
        return found

    def encode(self) -> bytes:
        """Return the document as JSON."""
        return msgspec.json.encode(self.document())


def of(error: CertctlError, default: str = "") -> Problem:
    """Return one of certctl's errors as a problem of ACME; ``default`` is what a refusal is called here."""
    kind = next((name for type_, name in _OURS if isinstance(error, type_)), "serverInternal")
    if default and isinstance(error, Refused | InvalidInput | Conflict):
        kind = default
    headers = {}
    if isinstance(error, Transient):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 2)))
    return Problem(kind, error.detail, status_of(type(error)) if kind == "serverInternal" else 0, headers=headers)
