"""SQL of the stream of events: the audit trail in the order in which it is sealed, which has no gaps.

An event's place is its era, transaction id and id. What lies below the oldest transaction that still runs cannot get
company any more; only that far is read, so that what was told is never followed by something that belongs before it.
"""

from __future__ import annotations

from typing import NamedTuple

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import EVERYTHING, Scope, within

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
          EXISTS (SELECT FROM audit_events AS later WHERE later.era = found.era AND later.xact >= found.xact) AS open
        FROM (SELECT max(era) AS era, pg_snapshot_xmin(pg_current_snapshot()) AS xact FROM audit_eras) AS found
        """
    )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Horizon(row["era"], row["xact"], row["open"])


class Wanted(NamedTuple):
    """Events behind a place, as far as the trail can be told; of one thing, or of all.

    ``everything`` is for who reads the audit trail: events about keys, people and the coordinator itself as well.
    """

    behind: Place
    until: Horizon
    resource_id: str | None
    everything: bool


async def after(conn: Connection, wanted: Wanted, scope: Scope, limit: int) -> list[Row]:
    """Return events, oldest first, as far as somebody with this scope may know of them."""
    values: list[object] = [*wanted.behind, wanted.until.xact]
    conditions = "true" if wanted.everything else _known(scope, values)
    if wanted.resource_id is not None:
        values.append(wanted.resource_id)
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


def _known(scope: Scope, values: list[object]) -> str:
    """Return the condition of the things that somebody with this scope may know of; its values are added."""
    if scope == EVERYTHING:
        values.append(["certificate", *PLATFORM, *_PEOPLES])
        return f"resource_type = ANY(${len(values)})"
    seen = within(scope, values)
    values.append(list(PLATFORM))
    own = f"resource_type = 'certificate' AND resource_id IN (SELECT id FROM certificates WHERE {seen})"
    return f"(resource_type = ANY(${len(values)}) OR {own})"
