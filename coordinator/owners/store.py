"""SQL of owners."""

from __future__ import annotations

from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table("owners", ("name", "email", "team_id"))
LISTING = Listing(
    TABLE.reads,
    "owners",
    "o",
    filters={"name": "name = {}", "email": "email = {}", "team_id": "team_id = {}"},
    sorts={"created_at": CREATED, "name": Sort("name"), "email": Sort("email")},
    team="team_id",
)
