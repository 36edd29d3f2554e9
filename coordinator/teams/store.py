"""SQL of teams."""

from __future__ import annotations

from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table("teams", ("name", "description"))
LISTING = Listing(
    TABLE.reads,
    "teams",
    "team",
    filters={"name": "name = {}"},
    sorts={"created_at": CREATED, "name": Sort("name")},
    team="id",
)
