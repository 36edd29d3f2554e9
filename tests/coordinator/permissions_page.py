"""docs/permissions.md, generated from the route table: ``python -m tests.coordinator.permissions_page`` writes it."""

from __future__ import annotations

from pathlib import Path

from coordinator.app import ROUTES
from coordinator.settings import ROLES
from coordinator.web.table import ROLE_PERMISSIONS, Access, Permission, Route

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"
CALLERS = (*ROLES, "agent", "nobody")
INTRODUCTION = """\
# Permissions

Who may call what. Generated from the route table by `python -m tests.coordinator.permissions_page`; a test compares it,
and [another one](../tests/coordinator/test_access.py) calls every route as everybody. A role is the same for a key and
for a person who has signed in; [Access](access.md) says how one gets it and how a scope narrows it.

An *agent* reaches the routes that have its own id in the path, and nothing of another agent; no key opens its routes.
*Nobody* is a caller without a credential: what such a route needs to know is in its body, or public.

## What each role may do
"""


def permissions() -> list[str]:
    """Return the table of permissions by role."""
    lines = [row("Permission", *ROLES), row(*["---"] * (len(ROLES) + 1))]
    return lines + [
        row(f"`{permission}`", *(mark(permission in ROLE_PERMISSIONS[role]) for role in ROLES))
        for permission in Permission
    ]


def routes() -> list[str]:
    """Return the table of routes by caller."""
    lines = [row("Route", "What it does", "Asks for", *CALLERS), row(*["---"] * (len(CALLERS) + 3))]
    return lines + [
        row(
            f"`{route.method} {route.path}`",
            route.summary,
            f"`{route.access}`" if isinstance(route.access, Permission) else str(route.access),
            *(mark(may(route, caller)) for caller in CALLERS),
        )
        for route in sorted(ROUTES, key=lambda route: (route.path, route.method))
    ]


def may(route: Route, caller: str) -> bool:
    """Say whether a caller may call a route."""
    if route.access is Access.OPEN:
        return True
    if route.access is Access.AGENT:
        return caller == "agent"
    return caller in ROLES and (route.access is Access.ANY_KEY or route.access in ROLE_PERMISSIONS[caller])


def mark(yes: bool) -> str:
    return "yes" if yes else "–"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *permissions(), "\n## Every route\n", *routes()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
