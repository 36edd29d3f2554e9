"""Routes about the coordinator itself: is it alive, is it ready, which version, what can it do."""

from __future__ import annotations

from importlib import metadata

import msgspec

from coordinator.issuance import keymaking
from coordinator.web.table import Access, Call, NoBody, NoQuery, Raw, Route
from core.errors import NotFound
from core.wire import PROTOCOL_VERSION


class Health(msgspec.Struct):
    """The process answers; ``warnings`` say what must not stay as it is."""

    status: str
    warnings: list[str]


class Ready(msgspec.Struct):
    """The process can work: its database answers."""

    status: str
    database: str


class ServerVersion(msgspec.Struct):
    """Which certctl this is; ``protocol`` is that of the agents' messages."""

    version: str
    protocol: int


async def health(call: Call[NoBody, NoQuery]) -> Health:
    """Say that the process is alive, whatever the database does."""
    return Health("healthy", keymaking.warnings(call.ctx))


async def ready(call: Call[NoBody, NoQuery]) -> Ready:
    """Say whether requests can be served now; 503 when the database is away."""
    async with call.ctx.db.connection() as conn:
        await conn.fetchval("SELECT 1")
    return Ready("ready", "reachable")


async def version(_call: Call[NoBody, NoQuery]) -> ServerVersion:
    """Return the version."""
    return ServerVersion(metadata.version("certctl"), PROTOCOL_VERSION)


async def server_root(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the root that this server's own certificate chains to, for callers that know its SHA-256."""
    if not call.ctx.server_root:
        detail = "this server's certificate comes from its operator; ask there for the root"
        raise NotFound(detail)
    return Raw(call.ctx.server_root, "application/x-pem-file")


ROUTES = [
    Route("GET", "/health", health, Access.OPEN, "Is the process alive", Health),
    Route("GET", "/ready", ready, Access.OPEN, "Can it serve", Ready),
    Route("GET", "/api/v1/version", version, Access.OPEN, "Version", ServerVersion),
    Route(
        "GET",
        "/api/v1/server-root",
        server_root,
        Access.OPEN,
        "The root of this server's own certificate",
        None,
        errors=(NotFound,),
        content_type="application/x-pem-file",
    ),
]
