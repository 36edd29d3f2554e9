"""Which pages of other origins may call, and that nobody else's browser is told anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.settings import load
from core.errors import Misconfigured
from tests.coordinator.world import KEYS, World, bearer, open_world, problem, variables

pytestmark = pytest.mark.anyio

PAGE = "https://ui.example.com"
PATH = "/api/v1/certificates"
ASKED = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


async def test_nobody_is_allowed_by_default(world: World) -> None:
    for method, headers in (("GET", {"Origin": PAGE, **bearer(KEYS["viewer"])}), ("OPTIONS", ASKED)):
        answer = await world.http.request(method, PATH, headers=headers)
        assert answer.status_code == (200 if method == "GET" else 405)
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [PAGE, "https://ui.example.com:8443", "http://ui.example.com", "null", "*", ""])
async def test_named_origins_are_allowed_and_no_others(database_url: str, tmp_path: Path, origin: str) -> None:
    async with open_world(
        variables(database_url, tmp_path, CERTCTL_CORS_ORIGINS=f"https://a.example, {PAGE}")
    ) as world:
        expected = PAGE if origin == PAGE else None
        for key in (KEYS["viewer"], "wrong-key-of-somebody"):
            answer = await world.http.get(PATH, headers={"Origin": origin, **bearer(key)})
            assert answer.headers.get("access-control-allow-origin") == expected
            assert ("retry-after" in answer.headers.get("access-control-expose-headers", "").lower()) == bool(expected)
            assert answer.headers["vary"] == "Origin"
        preflight = await world.http.options(PATH, headers={**ASKED, "Origin": origin})
        assert preflight.headers.get("access-control-allow-origin") == expected
        assert "access-control-allow-credentials" not in preflight.headers
        if not expected:
            problem(preflight, 405)
            return
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        assert preflight.headers["x-content-type-options"] == "nosniff"
        assert preflight.headers["strict-transport-security"]
        problem(await world.http.options(PATH, headers={"Origin": origin}), 405)


async def test_every_origin_is_allowed_only_without_credentials(database_url: str, tmp_path: Path) -> None:
    async with open_world(variables(database_url, tmp_path, CERTCTL_CORS_ORIGINS="*")) as world:
        answer = await world.http.get("/health", headers={"Origin": PAGE})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        pki = await world.pki.get("/.well-known/pki/crl/iss-local", headers={"Origin": PAGE})
        assert "access-control-allow-origin" not in pki.headers


@pytest.mark.parametrize("text", [f"*,{PAGE}", "ui.example.com", f"{PAGE}/", f"{PAGE}/path", "https://u@a", "null"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="CERTCTL_CORS_ORIGINS holds"):
        load({"CERTCTL_CORS_ORIGINS": text})
