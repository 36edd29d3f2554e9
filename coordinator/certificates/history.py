"""What became of a certificate: its versions, where they are served, and all that happened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from coordinator.bindings import service as bindings
from coordinator.bindings.drift import Drift
from coordinator.certificates import service, store
from coordinator.certificates.views import TimelineEntry, Version
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing
from coordinator.web.paging import Page, PageQuery, Shape, T, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed
from core.certificates import chain_to_pem
from core.errors import NotFound


class Deployment(msgspec.Struct):
    """A target that should serve the certificate: which version it should, which it was last seen to serve.

    ``reason`` says why these differ, or what has drifted; ``served_until`` is when what it serves ends. ``drift`` is
    what the agent found when it looked again at what it had installed.
    """

    target_id: str
    target_name: str
    target_type: str
    agent_id: str
    desired_version_id: str | None
    desired_generation: int | None
    served_version_id: str | None
    served_generation: int | None
    served_until: datetime | None
    served_at: datetime | None
    drift: Drift
    drift_since: datetime | None
    failures: int
    reason: str


def _version(row: Row) -> Version:
    fields = {name: row[name] for name in Version.__struct_fields__ if name != "pem"}
    return Version(**fields, pem=chain_to_pem((row["der"], *row["issuers"])).decode())


async def _versions(_conn: Connection, rows: Sequence[Row]) -> list[Version]:
    return [_version(row) for row in rows]


async def list_versions(call: Call[NoBody, PageQuery]) -> Page[Version] | Streamed:
    """List what was issued, newest first."""
    return await _of_one(call, store.VERSIONS, Version, _versions)


async def get_version(call: Call[NoBody, NoQuery]) -> Version:
    """Return one issued certificate."""
    certificate_id, version_id = call.path["certificate_id"], call.path["version_id"]
    async with call.ctx.db.connection() as conn:
        await service.found(conn, call.actor, certificate_id)
        row = await store.VERSIONS.get(conn, version_id, {"certificate_id": certificate_id})
    if row is None:
        detail = f"certificate {certificate_id} has no version {version_id}"
        raise NotFound(detail)
    return _version(row)


async def list_deployments(call: Call[NoBody, PageQuery]) -> Page[Deployment] | Streamed:
    """List the targets that should serve it."""
    return await _of_one(call, bindings.DEPLOYMENTS, Deployment)


async def timeline(call: Call[NoBody, PageQuery]) -> Page[TimelineEntry] | Streamed:
    """List what happened to it, newest first: audit events and the steps of its jobs."""
    return await _of_one(call, store.TIMELINE, TimelineEntry)


async def _of_one(
    call: Call[NoBody, PageQuery], listing: Listing, view: type[T], shape: Shape[T] | None = None
) -> Page[T] | Streamed:
    """Return a page of what belongs to the certificate in the path, if the caller may see that one."""
    certificate_id = call.path["certificate_id"]
    async with call.ctx.db.connection() as conn:
        await service.found(conn, call.actor, certificate_id)
    return await read_page(call, listing, view, shape, certificate_id=certificate_id)


_ONE = "/api/v1/certificates/{certificate_id}"
_LISTS = (
    ("versions", list_versions, "List issued versions", Page[Version], store.VERSIONS),
    ("deployments", list_deployments, "List where it is served", Page[Deployment], bindings.DEPLOYMENTS),
    ("timeline", timeline, "List what happened", Page[TimelineEntry], store.TIMELINE),
)

ROUTES = [
    *(
        Route("GET", f"{_ONE}/{name}", handler, Permission.READ, words, page, query=PageQuery, listing=listing)
        for name, handler, words, page, listing in _LISTS
    ),
    Route(
        "GET",
        f"{_ONE}/versions/{{version_id}}",
        get_version,
        Permission.READ,
        "Get an issued version",
        Version,
        errors=(NotFound,),
    ),
]
