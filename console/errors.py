"""The console's own errors, and the exit code of every error there is.

    CertctlError
    ├── Permanent
    │   └── Untrusted      the server's certificate does not chain to what is trusted here
    └── Transient
        ├── Unreachable    no connection, or one that broke
        └── ServerFault    the coordinator failed in a way that it did not expect itself

What the coordinator refuses comes as a problem document (RFC 9457) and becomes the same type of ``core.errors`` that it
was over there.
"""

from __future__ import annotations

import re
from enum import IntEnum

import msgspec

from core.errors import CertctlError, FieldError, InvalidInput, Misconfigured, Permanent, Transient, Unauthenticated
from core.problems import KINDS


class ExitCode(IntEnum):
    """What scripts may rely on; shown at the end of ``certctl --help``."""

    OK = 0
    NOT_DONE = 1
    USAGE = 2
    NO_ACCESS = 3
    PENDING = 4
    INTERRUPTED = 130


class Untrusted(Permanent):
    """The server's certificate is not one that this caller trusts."""

    title = "Not trusted"


class Unreachable(Transient):
    """Nobody answered, or the connection broke before the answer was complete."""

    title = "Not reachable"


class ServerFault(Transient):
    """The coordinator met an error that it did not expect; its log has the rest under the request id."""

    title = "Internal error"


class Problem(msgspec.Struct, frozen=True):
    """A problem document as far as it is used here."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    request_id: str = ""
    errors: tuple[dict[str, str], ...] = ()


_FIRST_FAULT = 500
_KINDS: dict[int, type[CertctlError]] = {**KINDS, 502: Transient}


def error_of(status: int, content: bytes) -> CertctlError:
    """Return the error that an answer with this status and body stands for."""
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem()
    detail = problem.detail or f"the server answered with status {status} and without a reason"
    if status >= _FIRST_FAULT and problem.request_id:
        detail += f" (request {problem.request_id})"
    fields = tuple(FieldError(entry.get("field", ""), entry.get("problem", "")) for entry in problem.errors)
    kind = _KINDS.get(status, ServerFault if status >= _FIRST_FAULT else Permanent)
    return kind(_with_remedy(kind, detail), errors=fields)


def _with_remedy(kind: type[CertctlError], detail: str) -> str:
    if kind is Unauthenticated:
        return f"{detail}; check CERTCTL_API_KEY or --api-key-file"
    return detail


def exit_code(error: CertctlError) -> ExitCode:
    """Return what the command ends with when ``error`` ends it."""
    match error:
        case Unreachable() | Untrusted() | Unauthenticated():
            return ExitCode.NO_ACCESS
        case ServerFault():
            return ExitCode.NOT_DONE
        case Transient():
            return ExitCode.NO_ACCESS
        case InvalidInput() | Misconfigured():
            return ExitCode.USAGE
        case _:
            return ExitCode.NOT_DONE


def problem_type(error: CertctlError) -> str:
    """Return the problem type as the coordinator writes it, e.g. ``urn:certctl:problem:not-found``."""
    words = re.sub(r"(?<!^)([A-Z])", r"-\1", type(error).__name__).lower()
    return f"urn:certctl:problem:{words}"
