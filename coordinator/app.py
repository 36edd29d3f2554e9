"""Wires the rooms together, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Quart

from coordinator.access import routes as access
from coordinator.agent_groups import routes as agent_groups
from coordinator.agents import routes as agents
from coordinator.approvals import routes as approvals
from coordinator.audit import routes as audit
from coordinator.certificates import exporting, history, importing
from coordinator.certificates import routes as certificates
from coordinator.enrollment.acme import routes as acme_routes
from coordinator.enrollment.acme import server as acme
from coordinator.events import routes as events
from coordinator.issuers import routes as issuers
from coordinator.jobs import routes as jobs
from coordinator.loops import routes as loops
from coordinator.metrics import routes as metrics
from coordinator.notifications import routes as notifications
from coordinator.oidc import routes as oidc
from coordinator.operations import routes as operations
from coordinator.ordering import routes as ordering
from coordinator.overview import routes as overview
from coordinator.owners import routes as owners
from coordinator.policies import routes as policies
from coordinator.profiles import routes as profiles
from coordinator.renewal_policies import routes as renewal_policies
from coordinator.saved_views import routes as saved_views
from coordinator.saved_views.service import lists_of
from coordinator.sessions import routes as sessions
from coordinator.stats import routes as stats
from coordinator.targets import routes as targets
from coordinator.teams import routes as teams
from coordinator.web import cors, front, later, openapi, reference, system
from coordinator.web.dispatch import register
from coordinator.web.table import Access, Call, NoBody, NoQuery, Raw, Route

if TYPE_CHECKING:
    from coordinator.context import Context


async def serve_openapi(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the OpenAPI 3.1 document of every route."""
    return Raw(openapi.served(tuple(ROUTES), call.ctx.settings.url), "application/json")


async def serve_reference(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the same as a page for people, which needs no scripts."""
    page = openapi.readable(tuple(ROUTES), call.ctx.settings.url)
    return Raw(page, "text/html; charset=utf-8", {"Content-Security-Policy": reference.POLICY})


_ROOMS: list[Route] = [
    *system.ROUTES,
    Route("GET", "/api/v1/openapi.json", serve_openapi, Access.OPEN, "This interface, described", None),
    Route(
        "GET", "/api/docs", serve_reference, Access.OPEN, "This interface, as a page", None, content_type="text/html"
    ),
    *access.ROUTES,
    *sessions.ROUTES,
    *oidc.ROUTES,
    *importing.ROUTES,
    *exporting.ROUTES,
    *operations.ROUTES,
    *certificates.ROUTES,
    *history.ROUTES,
    *targets.ROUTES,
    *agents.ROUTES,
    *jobs.ROUTES,
    *approvals.ROUTES,
    *notifications.ROUTES,
    *profiles.ROUTES,
    *renewal_policies.ROUTES,
    *agent_groups.ROUTES,
    *policies.ROUTES,
    *issuers.ROUTES,
    *ordering.ROUTES,
    *teams.ROUTES,
    *owners.ROUTES,
    *audit.ROUTES,
    *stats.ROUTES,
    *metrics.ROUTES,
    *overview.ROUTES,
    *events.ROUTES,
    *loops.ROUTES,
    *acme_routes.ROUTES,
]
ROUTES = [*_ROOMS, *saved_views.routes_over(lists_of(_ROOMS))]
"""The one route table: dispatch, permissions and the OpenAPI document come from it."""


def create_app(ctx: Context) -> Quart:
    """Return the application that listens on HTTPS."""
    app = _app(ctx, ROUTES)
    acme.install(app, ctx)
    cors.install(app, ctx.settings.cors_origins)
    return app


def create_pki_app(ctx: Context) -> Quart:
    """Return the application for relying parties, which listens on plain HTTP."""
    return _app(ctx, issuers.PUBLIC_ROUTES)


def _app(ctx: Context, routes: list[Route]) -> Quart:
    app = Quart("coordinator", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = ctx.settings.max_body_bytes
    app.config["BODY_TIMEOUT"] = app.config["RESPONSE_TIMEOUT"] = None  # ``slowness`` ends those who do not go on
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.merge_slashes = False  # a path is what it is; a redirect would lose the body of a POST
    register(app, ctx, routes)
    front.install(app, ctx, routes)
    later.install(app)  # around both: an agent's poll is a short read that is answered later
    return app
