"""Errors on the wire: the one table from error types to HTTP statuses and back (RFC 9110 section 15)."""

from __future__ import annotations

from core import errors
from core.errors import CertctlError

STATUS: dict[type[CertctlError], int] = {
    errors.InvalidInput: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Refused: 422,
    errors.TooManyRequests: 429,
    errors.Transient: 503,
    errors.DeadlineExceeded: 504,
}
KINDS: dict[int, type[CertctlError]] = {status: kind for kind, status in STATUS.items()}
"""For clients. A status that is not here is theirs to read: a proxy's, or a defect."""


def status_of(kind: type[CertctlError]) -> int:
    """Return the status of an error type; the nearest ancestor in the table decides, 500 without one."""
    return next((STATUS[base] for base in kind.__mro__ if base in STATUS), 500)
