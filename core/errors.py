"""The one error tree.

    CertctlError
    ├── Permanent                 the same call will fail again
    │   ├── InvalidInput          400  a named field is wrong; says which and what to do
    │   ├── Unauthenticated       401  no credential, or one that is not known
    │   ├── Forbidden             403  the credential does not allow this
    │   ├── NotFound              404  no such thing
    │   ├── Conflict              409  the thing's state does not allow this now
    │   │   └── StaleLease        409  a newer lease of this job exists
    │   ├── Gone                  410  retired for good; the caller should end
    │   ├── PreconditionFailed    412  changed since the caller has read it
    │   ├── TooLarge              413  more bytes than are read
    │   ├── UnsupportedMedia      415  not the content type this route reads
    │   ├── Refused               422  well-formed, and against a rule (profile, policy, gate)
    │   └── Misconfigured          –   a setting or a host is wrong; stops the start
    └── Transient                 503  may succeed later; callers back off and try again
        ├── DeadlineExceeded      504  an outside party did not answer in time
        └── TooManyRequests       429  more than the caller's share; says when there is some again

Retrying decides on the type alone, never on a message. Foreign exceptions become one of these once, at the
adapter's edge, with ``from``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One wrong field: its path in the request (``sans[2]``) and what is wrong with it, with the remedy."""

    field: str
    problem: str


class CertctlError(Exception):
    """Base of all errors raised on purpose.

    ``detail`` is one sentence for a person, saying what to do where that is known; it never holds a secret.
    ``errors`` names the fields at fault, if any; ``members`` are what its problem document has beside the usual
    (RFC 9457 section 3.2).
    """

    title = "Error"

    def __init__(
        self, detail: str, *, errors: tuple[FieldError, ...] = (), members: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.members = members or {}


class Permanent(CertctlError):
    """The same call would fail again."""


class Transient(CertctlError):
    """The same call may succeed later; after ``retry_after_s`` seconds at the earliest, 0 when nobody knows."""

    title = "Temporarily unavailable"

    def __init__(self, detail: str, *, errors: tuple[FieldError, ...] = (), retry_after_s: float = 0.0) -> None:
        super().__init__(detail, errors=errors)
        self.retry_after_s = retry_after_s


class InvalidInput(Permanent):
    """A request that cannot be read as what it should be."""

    title = "Invalid input"

    @classmethod
    def of(cls, field: str, problem: str) -> InvalidInput:
        """Make the error for one wrong ``field``."""
        return cls(f"{field}: {problem}", errors=(FieldError(field, problem),))


class Unauthenticated(Permanent):
    """The caller has not shown who it is."""

    title = "Not authenticated"


class Forbidden(Permanent):
    """The caller is known and may not do this."""

    title = "Not allowed"


class NotFound(Permanent):
    """The named thing does not exist, or not for this caller."""

    title = "Not found"


class Conflict(Permanent):
    """The thing's present state does not allow this."""

    title = "Conflict"


class StaleLease(Conflict):
    """A worker's write carries a lease epoch that is no longer the newest one."""

    title = "Stale lease"


class Gone(Permanent):
    """The thing was retired for good."""

    title = "Gone"


class PreconditionFailed(Permanent):
    """The thing is no longer as the caller has read it (RFC 9110 section 13.1.1)."""

    title = "Changed meanwhile"


class TooLarge(Permanent):
    """The request holds more bytes than are read."""

    title = "Too large"


class UnsupportedMedia(Permanent):
    """The request's content type is not one this route reads."""

    title = "Unsupported media type"


class Refused(Permanent):
    """Well-formed, and against a rule: profile, policy or the issuance gate."""

    title = "Refused"


class Misconfigured(Permanent):
    """A setting or the host is wrong; ``detail`` names the variable or path and the remedy."""

    title = "Misconfigured"


class DeadlineExceeded(Transient):
    """An outside party did not answer in time."""

    title = "Deadline exceeded"


class TooManyRequests(Transient):
    """The caller's share of requests is used up for now."""

    title = "Too many requests"
