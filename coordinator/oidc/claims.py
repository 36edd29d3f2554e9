"""From what the provider says of somebody to what they may do here. Pure.

Who matches nothing gets nothing: being known to the provider alone opens no door.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.oidc.settings import EVERY_TEAM, OIDCSettings
from coordinator.sessions.service import Person
from core.errors import Forbidden

_MOST_CHARACTERS = 200
_MOST_SUBJECT = 255  # OpenID Connect Core section 2


def person_of(settings: OIDCSettings, claims: Mapping[str, Any]) -> Person:
    """Return who the claims are about, with role and teams; raise ``Forbidden`` when they give none."""
    name = _text(claims.get("name")) or _text(claims.get("preferred_username"))
    role, teams = _role(settings, claims), _teams(settings, claims)
    return Person(settings.issuer, str(claims["sub"])[:_MOST_SUBJECT], name, _text(claims.get("email")), role, teams)


def lacks_claims(settings: OIDCSettings, claims: Mapping[str, Any]) -> bool:
    """Say whether a claim that decides is not there, so that it is worth to ask at the userinfo endpoint."""
    wanted = [name for name in (settings.role_claim, settings.team_claim) if name]
    return any(_find(claims, name) is None for name in wanted)


def values_of(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the values of a claim that is a text or a list; nested ones are named with dots.

    A claim of exactly that name goes first: some are URLs.
    """
    found = _find(claims, name)
    values = found if isinstance(found, list) else [found]
    return tuple(value for value in values if isinstance(value, str) and value)


def _find(claims: Mapping[str, Any], name: str) -> object:
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _role(settings: OIDCSettings, claims: Mapping[str, Any]) -> str:
    values = values_of(claims, settings.role_claim)
    for value, role in settings.roles:
        if value in values:
            return role
    detail = (
        f"you are known, and nothing in your claim {settings.role_claim!r} gives you a role here; "
        "an administrator maps it in CERTCTL_OIDC_ROLE_MAP"
    )
    raise Forbidden(detail)


def _teams(settings: OIDCSettings, claims: Mapping[str, Any]) -> tuple[str, ...] | None:
    if not settings.team_claim:
        return None
    values = values_of(claims, settings.team_claim)
    teams = {team for value, team in settings.teams if value in values} if settings.teams else set(values)
    if EVERY_TEAM in teams and settings.teams:  # a claim's own text cannot say so
        return None
    if not teams:
        detail = (
            f"you are known, and nothing in your claim {settings.team_claim!r} gives you a team here; "
            "an administrator maps it in CERTCTL_OIDC_TEAM_MAP"
        )
        raise Forbidden(detail)
    return tuple(sorted(teams))


def _text(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(c for c in text if c.isprintable())[:_MOST_CHARACTERS]
