"""What the environment says of the identity provider: where it is, who certctl is there, what its claims give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from core.environment import Environment
from core.secret import Secret

EVERY_TEAM = "*"
_MOST_SECRET_BYTES = 4096
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class OIDCSettings:
    """An OpenID provider; see ``docs/access.md`` for the meaning of each.

    ``roles`` and ``teams`` are pairs of a claim's value and what it gives. Without a ``team_claim`` nobody is limited.
    """

    issuer: str
    client_id: str
    client_secret: Secret[str] | None
    scopes: tuple[str, ...]
    role_claim: str
    roles: Pairs
    team_claim: str
    teams: Pairs
    redirect_url: str
    ca_path: Path | None


def load(env: Environment, server_url: str, roles: tuple[str, ...]) -> OIDCSettings | None:
    """Read the settings; None when no provider is named. What is wrong is noted in ``env``."""
    issuer = env.read("CERTCTL_OIDC_ISSUER", "", _https)
    settings = OIDCSettings(
        issuer=issuer,
        client_id=env.text("CERTCTL_OIDC_CLIENT_ID"),
        client_secret=_client_secret(env),
        scopes=env.read("CERTCTL_OIDC_SCOPES", ("openid", "profile", "email"), _scopes),
        role_claim=env.text("CERTCTL_OIDC_ROLE_CLAIM", "groups"),
        roles=env.read("CERTCTL_OIDC_ROLE_MAP", (), lambda text: _roles(text, roles)),
        team_claim=env.text("CERTCTL_OIDC_TEAM_CLAIM"),
        teams=env.read("CERTCTL_OIDC_TEAM_MAP", (), _pairs),
        redirect_url=env.read("CERTCTL_OIDC_REDIRECT_URL", f"{server_url}/auth/oidc/callback", _https),
        ca_path=env.path("CERTCTL_OIDC_CA_BUNDLE_PATH"),
    )
    _check_whole(env, settings)
    return settings if issuer else None


def _check_whole(env: Environment, settings: OIDCSettings) -> None:
    needed = {"CERTCTL_OIDC_CLIENT_ID": settings.client_id, "CERTCTL_OIDC_ROLE_MAP": settings.roles}
    if settings.issuer:
        for name, value in needed.items():
            if not value and not env.is_wrong(name):
                env.problem(
                    name, "is missing: with CERTCTL_OIDC_ISSUER it says who certctl is there and who may do what"
                )
    elif (settings.client_id or settings.roles or settings.client_secret) and not env.is_wrong("CERTCTL_OIDC_ISSUER"):
        env.problem("CERTCTL_OIDC_ISSUER", "is missing: the other CERTCTL_OIDC_ variables are about a provider")
    if settings.teams and not settings.team_claim:
        env.problem("CERTCTL_OIDC_TEAM_CLAIM", "is missing: CERTCTL_OIDC_TEAM_MAP is about its values")


def _client_secret(env: Environment) -> Secret[str] | None:
    given, path = env.secret("CERTCTL_OIDC_CLIENT_SECRET"), env.path("CERTCTL_OIDC_CLIENT_SECRET_FILE")
    if path is None:
        return given
    if given is not None:
        env.problem("CERTCTL_OIDC_CLIENT_SECRET_FILE", "and CERTCTL_OIDC_CLIENT_SECRET are both set: give one of both")
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_SECRET_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        env.problem("CERTCTL_OIDC_CLIENT_SECRET_FILE", f"names {path}, which cannot be read ({why})")
        return None
    if not text:
        env.problem("CERTCTL_OIDC_CLIENT_SECRET_FILE", f"names {path}, which is empty")
    return Secret(text)


def _https(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
        message = (
            f"is {text!r}; write an https URL exactly as it is registered, like https://id.example.com/realms/main"
        )
        raise ValueError(message)
    return text


def _scopes(text: str) -> tuple[str, ...]:
    scopes = tuple(text.replace(",", " ").split())
    if "openid" not in scopes:
        message = f"is {text!r}; it must hold openid, for instance 'openid profile email groups'"
        raise ValueError(message)
    return scopes


def _roles(text: str, roles: tuple[str, ...]) -> Pairs:
    pairs = _pairs(text)
    for value, role in pairs:
        if role not in roles:
            message = f"gives {value!r} the role {role!r}; use one of {', '.join(roles)}"
            raise ValueError(message)
    return pairs


def _pairs(text: str) -> Pairs:
    """Read ``value=thing`` pairs between commas, or semicolons where values hold commas; the last ``=`` counts."""
    entries = text.split(";" if ";" in text else ",")
    pairs = tuple((value.strip(), thing.strip()) for value, _, thing in (entry.rpartition("=") for entry in entries))
    if not all(value and thing for value, thing in pairs):
        message = f"is {text!r}; write pairs like 'claim value=thing, other value=thing', or with ; in between"
        raise ValueError(message)
    return pairs
