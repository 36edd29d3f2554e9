"""Teams over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from coordinator.teams import store
from coordinator.web.paging import PageQuery
from coordinator.web.resource import Resource, Use, routes_of
from coordinator.web.table import Permission, Strict


class TeamBody(Strict):
    """A team."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Team(msgspec.Struct):
    """A team as it is."""

    id: str
    name: str
    description: str
    revision: int
    created_at: datetime
    updated_at: datetime


class TeamQuery(PageQuery):
    """Filters of the team list."""

    name: str | None = None


TEAMS = Resource(
    "team",
    "/api/v1/teams",
    "team",
    store.TABLE,
    store.LISTING,
    TeamBody,
    Team,
    Permission.PEOPLE_WRITE,
    TeamQuery,
    uses=(
        Use("owners", "team_id", "owners"),
        Use("certificates", "team_id", "certificates"),
        Use("api_keys", "teams", "API keys", many=True, alive="disabled_at IS NULL"),
    ),
    kept=frozenset({"default"}),
)
ROUTES = routes_of(TEAMS)
