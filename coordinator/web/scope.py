"""What a caller's scope – its teams and environments – means for single things; lists hold it in their statements."""

from __future__ import annotations

from coordinator.database.driver import Record as Row
from coordinator.web.table import Actor
from core.errors import FieldError, Forbidden, NotFound


def visible(actor: Actor, row: Row | None, what: str) -> Row:
    """Return the row; raise ``NotFound`` when it is not there, or not for this caller, which look alike."""
    if row is None or actor.scope.misses(row["team_id"], row["environment"]):
        raise NotFound(f"there is no {what}")
    return row


def check_inside(actor: Actor, team_id: str, environment: str) -> None:
    """Raise ``Forbidden`` that names the field by which a thing would lie outside of what the caller may see."""
    field = actor.scope.misses(team_id, environment)
    if field:
        allowed = actor.scope.teams if field == "team_id" else actor.scope.environments
        problem = f"this key is for {', '.join(allowed or ()) or 'none'} only"
        raise Forbidden(f"{field}: {problem}", errors=(FieldError(field, problem),))
