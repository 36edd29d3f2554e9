"""Problem documents (RFC 9457): one way to write them; the statuses are those of ``core.problems``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from core.decoding import wrong_field
from core.errors import CertctlError, FieldError, InvalidInput
from core.problems import status_of

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every answer that is not a success (RFC 9457). A kind of thing may add members of its own."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str = ""
    errors: list[FieldError] = msgspec.field(default_factory=list)


def type_of(kind: type[CertctlError]) -> str:
    """Return the problem type, e.g. ``urn:certctl:problem:stale-lease``."""
    words = re.sub(r"(?<!^)([A-Z])", r"-\1", kind.__name__).lower()
    return f"urn:certctl:problem:{words}"


def problem_of(error: CertctlError, request_id: str) -> Problem:
    """Return the document for an error that was raised on purpose."""
    kind = type(error)
    return Problem(type_of(kind), error.title, status_of(kind), error.detail, request_id, list(error.errors))


def internal_problem(request_id: str) -> Problem:
    """Return the document for an error nobody expected; the log has the rest, under the same request id."""
    detail = f"an unexpected error; the coordinator's log tells more under request id {request_id}"
    return Problem("about:blank", "Internal error", 500, detail, request_id)


def decode_error(error: msgspec.MsgspecError) -> InvalidInput:
    """Turn a decoding error into one that names the field and the remedy."""
    if not isinstance(error, msgspec.ValidationError):
        return InvalidInput(f"the body is not JSON: {error}", errors=(FieldError("body", f"is not JSON: {error}"),))
    wrong = wrong_field(error)
    return InvalidInput.of(wrong.field or "body", wrong.problem)


def encode(problem: Problem, members: Mapping[str, object]) -> bytes:
    """Return the document's JSON bytes, with the members that its kind adds (RFC 9457 section 3.2)."""
    return msgspec.json.encode({**msgspec.to_builtins(problem), **members} if members else problem)


def answer(problem: Problem, members: Mapping[str, object] = MappingProxyType({})) -> tuple[bytes, int, dict[str, Any]]:
    """Return body, status and headers, as Quart takes them."""
    headers = {"Content-Type": CONTENT_TYPE}
    if problem.status == 401:  # noqa: PLR2004 - RFC 9110 section 15.5.2 asks for the challenge
        headers["WWW-Authenticate"] = 'Bearer realm="certctl"'
    if problem.status == 503:  # noqa: PLR2004 - says when to come back
        headers["Retry-After"] = "2"
    return encode(problem, members), problem.status, headers
