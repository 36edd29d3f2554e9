"""An authority's refusals (RFC 8555 section 6.7, RFC 9457) as errors of certctl, made in this place only.

What may succeed when it is tried again is ``Transient``; what the authority refuses for good is one of the others. Its
words are shown, shortened and without control characters; subproblems (section 6.7.1) stand in ``errors`` by the name
that they concern.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from core.acme import URN
from core.errors import (
    CertctlError,
    Conflict,
    FieldError,
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotFound,
    Refused,
    TooManyRequests,
    Transient,
)

_MOST_TEXT = 500
_MOST_SUBPROBLEMS = 100
_LIMIT_IN_TEXT = re.compile(r"rate-limits/?#([a-z0-9-]{1,100})")
_RETRY_IN_TEXT = re.compile(r"retry after (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)", re.IGNORECASE)
_SERVER_ERRORS, _TOO_MANY = 500, 429
_PASSING_STATUSES = (408, 425)
_STATUSES: dict[int, type[CertctlError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 405: NotFound, 409: Conflict}


class RateLimited(TooManyRequests):
    """The authority's limit is used up: ``limit`` is its name where it is known, as in the authority's own pages.

    ``retry_after_s`` seconds have to pass, 0 when the authority did not say. Callers keep their budget by both.
    """

    def __init__(self, detail: str, *, limit: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.limit = limit
        self.members = {"limit": limit} if limit else {}


class BadNonce(Transient):
    """The nonce was not taken (RFC 8555 section 6.5); the request may be signed again with a new one."""


class AlreadyRevoked(Conflict):
    """The certificate is revoked already."""


class AlreadyReplaced(Conflict):
    """Another order replaces the certificate already (RFC 9773 section 7.4)."""


class AccountUnknown(NotFound):
    """The authority has no account with this key."""


class UserActionRequired(Forbidden):
    """A person has to do something at ``url`` first, for instance agree to new terms (RFC 8555 section 7.3.3)."""

    def __init__(self, detail: str, *, url: str) -> None:
        super().__init__(detail, members={"url": url})
        self.url = url


class ExternalAccountRequired(Misconfigured):
    """The authority registers only accounts that are bound to one it knows (RFC 8555 section 7.3.4)."""


class Problem(msgspec.Struct, frozen=True):
    """A problem document, as far as it is read."""

    type: str = ""
    detail: str = ""
    title: str = ""
    instance: str = ""
    identifier: dict[str, Any] | None = None
    subproblems: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Return the last part of an ACME error's URN, empty for a problem of another kind."""
        return self.type.removeprefix(URN) if self.type.startswith(URN) else ""

    @property
    def text(self) -> str:
        """Return what it says, fit to be shown."""
        return printable(self.detail or self.title) or "no reason was given"


_KINDS: dict[str, type[CertctlError]] = {
    "accountDoesNotExist": AccountUnknown,
    "alreadyReplaced": AlreadyReplaced,
    "alreadyRevoked": AlreadyRevoked,
    "badNonce": BadNonce,
    "badRevocationReason": InvalidInput,
    "connection": Transient,
    "dns": Transient,
    "externalAccountRequired": ExternalAccountRequired,
    "invalidContact": InvalidInput,
    "orderNotReady": Conflict,
    "serverInternal": Transient,
    "tls": Transient,
    "unauthorized": Forbidden,
    "unsupportedContact": InvalidInput,
}
"""Errors of RFC 8555 section 6.7 and RFC 9773; every other is ``Refused``."""

_REMEDIES = {
    "accountDoesNotExist": "register the account again",
    "badCSR": "change the key or the names that are asked for",
    "badPublicKey": "use a key of another kind",
    "badSignatureAlgorithm": "use an account key of another kind",
    "caa": "let the name's CAA record allow this authority",
    "connection": "make the name reachable for the authority",
    "dns": "look at the name's DNS records and servers",
    "externalAccountRequired": "set eab_kid and eab_hmac to what the authority gives its customers",
    "invalidContact": "correct the e-mail address",
    "invalidProfile": "set config.profile to one of the authority's profiles",
    "rejectedIdentifier": "leave that name out, or ask another authority",
    "unsupportedContact": "use an e-mail address as the contact",
    "unsupportedIdentifier": "leave that name out, or ask another authority",
}


def read(body: bytes) -> Problem:
    """Read a problem document; one that is none is a problem without a type."""
    try:
        return msgspec.json.decode(body, type=Problem, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Problem()


def error_of(
    problem: Problem, *, status: int, what: str, retry_after_s: float = 0.0, links: Mapping[str, str] | None = None
) -> CertctlError:
    """Return the error for an answer with a status of 400 or more; ``what`` says what was tried."""
    detail = f"{what}: the authority answered {status}: {problem.text}"
    if problem.name == "rateLimited" or status == _TOO_MANY:
        return _rate_limited(problem, detail, retry_after_s, links or {})
    if problem.name == "userActionRequired":
        url = printable(problem.instance)
        return UserActionRequired(f"{detail}; a person has to go to {url or 'the authority'}", url=url)
    return _made(_kind(problem, status), problem, detail, retry_after_s)


def failure_of(problem: Problem, what: str) -> CertctlError:
    """Return the error for what an order, authorization or challenge says of its own end."""
    kind = _KINDS.get(problem.name, Refused)
    # Here it is a name's own answer that was wrong, not the account (RFC 8555 section 8.1 and following).
    kind = Refused if kind is Forbidden else kind
    return _made(kind, problem, f"{what}: {problem.text}", 0.0)


def printable(text: str) -> str:
    """Return foreign words on one line, without what a terminal would obey, shortened."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= _MOST_TEXT else line[: _MOST_TEXT - 1] + "…"


def _kind(problem: Problem, status: int) -> type[CertctlError]:
    if problem.name:
        return _KINDS.get(problem.name, Transient if status >= _SERVER_ERRORS else Refused)
    if status >= _SERVER_ERRORS or status in _PASSING_STATUSES:
        return Transient
    return _STATUSES.get(status, Refused)


def _made(kind: type[CertctlError], problem: Problem, detail: str, retry_after_s: float) -> CertctlError:
    remedy = _REMEDIES.get(problem.name)
    detail = f"{detail}; {remedy}" if remedy else detail
    errors = tuple(_subproblem(part) for part in problem.subproblems[:_MOST_SUBPROBLEMS])
    if issubclass(kind, Transient):
        return kind(detail, errors=errors, retry_after_s=retry_after_s)
    return kind(detail, errors=errors)


def _subproblem(part: Mapping[str, Any]) -> FieldError:
    identifier = part.get("identifier")
    name = identifier.get("value", "") if isinstance(identifier, dict) else ""
    kind = str(part.get("type", "")).removeprefix(URN)
    return FieldError(printable(str(name)), printable(f"{kind}: {part.get('detail', '')}"))


def _rate_limited(problem: Problem, detail: str, retry_after_s: float, links: Mapping[str, str]) -> RateLimited:
    found = _LIMIT_IN_TEXT.search(problem.detail) or _LIMIT_IN_TEXT.search(links.get("help", ""))
    return RateLimited(
        detail, limit=found[1] if found else "", retry_after_s=retry_after_s or _wait_in_text(problem.detail)
    )


def _wait_in_text(text: str) -> float:
    """Return the seconds until the time that Let's Encrypt names in its words, 0 where there is none."""
    found = _RETRY_IN_TEXT.search(text)
    try:
        moment = datetime.fromisoformat(found[1]).replace(tzinfo=UTC) if found else None
    except ValueError:
        return 0.0
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment else 0.0
