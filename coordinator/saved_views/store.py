"""SQL of saved views."""

from __future__ import annotations

from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Scope, Sort
from coordinator.database.table import Table

TABLE = Table("saved_views", ("owner", "name", "page", "filters", "shared", "teams", "environments"))
# Shared ones of somebody who sees a part are for those who see that part as well.
_REACHES = """({0} ->> 'teams' IS NULL OR teams IS NULL OR teams <@ ARRAY(
  SELECT jsonb_array_elements_text(coalesce(nullif({0} -> 'teams', 'null'), '[]'))))"""
_SHARED = f"shared AND {_REACHES} AND {_REACHES.replace('teams', 'environments')}"
LISTING = Listing(
    TABLE.reads,
    "saved_views",
    "sv",
    filters={
        "name": "name = {}",
        "page": "page = {}",
        "visible": f"(owner = {{0}}::jsonb ->> 'owner' OR {_SHARED.replace('{0}', '{0}::jsonb')})",
        "mine": "owner = {}",
    },
    sorts={"created_at": CREATED, "updated_at": Sort("updated_at", "timestamptz"), "name": Sort("name")},
)


def caller(owner: str, scope: Scope) -> dict[str, Any]:
    """Return who asks, as the filter ``visible`` takes it."""
    return {"owner": owner, "teams": scope.teams, "environments": scope.environments}


async def visible(conn: Connection, view_id: str, asking: dict[str, Any]) -> Row | None:
    """Return a view that somebody may see."""
    return await LISTING.get(conn, view_id, {"visible": asking})


async def count(conn: Connection, owner: str) -> int:
    """Return how many views somebody has."""
    return int(await conn.fetchval("SELECT count(*) FROM saved_views WHERE owner = $1", owner))


async def lock_owner(conn: Connection, owner: str) -> None:
    """Let one request at a time of somebody make views, until the transaction's end."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtext('saved_views'), hashtext($1))", owner)
