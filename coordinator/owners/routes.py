"""Owners over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from coordinator.owners import store
from coordinator.policies.service import owner_changed
from coordinator.web.paging import PageQuery
from coordinator.web.resource import Resource, Use, routes_of
from coordinator.web.table import Permission, Strict
from core.marks import PERSONAL

EMAIL = r"^([^@\s,;<>]{1,64}@[^@\s,;<>]{1,255})?$"


class OwnerBody(Strict):
    """Somebody who answers for certificates. Without ``email`` nobody can be written to."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128, extra_json_schema=PERSONAL)]
    email: Annotated[str, msgspec.Meta(pattern=EMAIL, extra_json_schema=PERSONAL)] = ""
    team_id: str = "default"


class Owner(msgspec.Struct):
    """An owner as it is."""

    id: str
    name: Annotated[str, msgspec.Meta(extra_json_schema=PERSONAL)]
    email: Annotated[str, msgspec.Meta(extra_json_schema=PERSONAL)]
    team_id: str
    revision: int
    created_at: datetime
    updated_at: datetime


class OwnerQuery(PageQuery):
    """Filters of the owner list."""

    name: str | None = None
    email: str | None = None
    team_id: str | None = None


OWNERS = Resource(
    "owner",
    "/api/v1/owners",
    "o",
    store.TABLE,
    store.LISTING,
    OwnerBody,
    Owner,
    Permission.PEOPLE_WRITE,
    OwnerQuery,
    follows=owner_changed,
    uses=(
        Use("certificates", "owner_id", "certificates"),
        Use("api_keys", "owner_id", "API keys", alive="disabled_at IS NULL"),
    ),
    references={"team_id": "team_id"},
    kept=frozenset({"default"}),
)
ROUTES = routes_of(OWNERS)
