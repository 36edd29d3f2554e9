"""A browser in front of a coordinator: it keeps cookies, follows nothing by itself, and knows where it was sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from coordinator.app import create_app
from coordinator.sessions import service as sessions
from tests.coordinator.world import World, done, transport_of

CLIENT_ID = "certctl"
CLIENT_SECRET = "a secret of the tests, long enough"  # pragma: allowlist secret


def variables(issuer: str, ca_path: Path) -> dict[str, str]:
    """Return the settings of a coordinator whose people sign in at ``issuer``."""
    return {
        "CERTCTL_OIDC_ISSUER": issuer,
        "CERTCTL_OIDC_CLIENT_ID": CLIENT_ID,
        "CERTCTL_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "CERTCTL_OIDC_SCOPES": "openid profile email groups",
        "CERTCTL_OIDC_ROLE_MAP": "certctl-admins=admin,certctl-ops=operator",
        "CERTCTL_OIDC_CA_BUNDLE_PATH": str(ca_path),
    }


def query_of(url: str) -> dict[str, str]:
    """Return the parameters of a URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


class Browser:
    """One browser."""

    def __init__(self, world: World) -> None:
        self.world = world
        transport = transport_of(create_app(world.ctx))
        self.http = httpx.AsyncClient(transport=transport, base_url=world.ctx.settings.url)

    async def begin(self, return_to: str = "/") -> str:
        """Start to sign in; return where the coordinator sends the browser."""
        response = await self.http.get("/auth/oidc/login", params={"return_to": return_to})
        assert response.status_code == 302, response.text
        return response.headers["Location"]

    async def come_back(self, **query: str) -> httpx.Response:
        """Come back from the provider."""
        return await self.http.get("/auth/oidc/callback", params=query)

    async def whoami(self) -> dict[str, Any]:
        """Return what the coordinator says of this browser's session."""
        told: dict[str, Any] = done(await self.http.get("/api/v1/auth/check"))
        return told

    async def change(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Change something as a page of the coordinator does."""
        token = (await self.whoami())["csrf_token"]
        headers = {sessions.CSRF_HEADER: token, "Origin": self.world.ctx.settings.url}
        return await self.http.request(method, path, headers=headers, **options)

    @property
    def session(self) -> str:
        """Return the session's value; empty when there is none."""
        return self.http.cookies.get(sessions.COOKIE) or ""
