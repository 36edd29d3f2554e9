"""SQL of the stream of events: the audit trail in the order in which it is sealed, which has no gaps.

An event's place is its era, transaction id and id. What lies below the oldest transaction that still runs cannot get
company any more; only that far is read, so that what was told is never followed by something that belongs before it.
"""

from __future__ import annotations

from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Scope

PLATFORM = ("agent", "agent_group", "issuer", "policy", "profile", "renewal_policy", "target")
"""Things that belong to no team: whoever reads the inventory may know of them."""
_PEOPLES = ("owner", "team")


class Place(NamedTuple):
    """A place in the trail: everything up to this event is known."""

    era: int
    xact: int
    id: int

    def __str__(self) -> str:
        return f"{self.era}.{self.xact}.{self.id}"


class Horizon(NamedTuple):
    """How far the trail can be told at this moment: the place where the next event will be, at the earliest.

    ``open``: behind it lie events already, which wait for a transaction that has not ended.
    """

    era: int
    xact: int
    open: bool


async def horizon(conn: Connection) -> Horizon:
    """Return how far the trail can be told."""
    row = await conn.fetchrow(
        """
        SELECT era, xact::text::bigint AS xact,
          EXISTS (SELECT FROM audit_events WHERE audit_events.era = found.era AND audit_events.xact >= found.xact) AS open
        FROM (SELECT max(era) AS era, pg_snapshot_xmin(pg_current_snapshot()) AS xact FROM audit_eras) AS found
        """
    )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Horizon(row["era"], row["xact"], row["open"])


async def after(
    conn: Connection, place: Place, until: Horizon, scope: Scope, everything: bool, resource_id: str | None, limit: int
) -> list[Row]:
    """Return events behind a place, oldest first, as far as somebody with this scope may know of them.

    ``everything`` is for who reads the audit trail: events about keys, people and the coordinator itself as well.
    """
    values: list[object] = [place.era, place.xact, place.id, until.xact]
    certificates = Listing("", "certificates", "", team="team_id", environment="environment")
    seen, scoped = certificates.matching({}, scope)
    for number in range(len(scoped), 0, -1):
        seen = seen.replace(f"${number}", f"${number + len(values)}")
    values += scoped
    kinds = PLATFORM if scope != Scope() else (*PLATFORM, *_PEOPLES)
    values.append(list(kinds))
    known = f"resource_type = ANY(${len(values)})"
    known += (
        " OR resource_type = 'certificate'"
        if scope == Scope()
        else f" OR resource_type = 'certificate' AND resource_id IN (SELECT id FROM certificates WHERE {seen})"
    )
    conditions = "true" if everything else f"({known})"
    if everything:
        values.pop()
    if resource_id is not None:
        values.append(resource_id)
        conditions += f" AND resource_id = ${len(values)}"
    return await conn.fetch(
        f"""
        SELECT id, at, xact::text::bigint AS xact, actor, action, resource_type, resource_id, request_id, details
        FROM audit_events
        WHERE era = $1 AND xact >= $2 AND xact < $4 AND (xact > $2 OR id > $3) AND {conditions}
        ORDER BY xact, id LIMIT {limit}
        """,
        *values,
    )
