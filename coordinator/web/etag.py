"""Entity tags (RFC 9110 section 8.8.3): the revision of a thing, so that nobody overwrites what he has not seen."""

from __future__ import annotations

from typing import Any

from coordinator.database.driver import Record as Row
from coordinator.web.table import Call
from core.errors import PreconditionFailed


def of_answer(result: Any) -> str:
    """Return the tag of what is answered; empty when it has no revision, as a field or as a property."""
    revision = getattr(result, "revision", None)
    return f'"{revision}"' if revision is not None else ""


def check(call: Call[Any, Any], row: Row) -> None:
    """Raise ``PreconditionFailed`` unless the locked ``row`` is what the caller's ``If-Match`` names, if it has one."""
    wanted = call.headers.get("If-Match", "").strip()
    if not wanted or wanted == "*":
        return
    current = f'"{row["revision"]}"'
    if current not in {tag.strip() for tag in wanted.split(",")}:
        detail = f"{row['id']} is at revision {current} by now; get it again, and repeat your change on what it is"
        raise PreconditionFailed(detail)
