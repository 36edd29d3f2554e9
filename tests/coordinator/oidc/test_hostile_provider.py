"""What a provider, or somebody between it and us, may send: none of it signs anybody in, and each is told apart."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey, KeyParameters, OKPKey, RSAKey

from coordinator.oidc import provider as provider_module
from tests.coordinator.oidc import lying_provider
from tests.coordinator.oidc.browser import CLIENT_ID, Browser, query_of, variables
from tests.coordinator.oidc.conftest import Shown
from tests.coordinator.oidc.lying_provider import LyingProvider
from tests.coordinator.world import World, open_world, problem
from tests.coordinator.world import variables as world_variables

pytestmark = pytest.mark.anyio
NOW = int(time.time())


@pytest.fixture
def provider(shown: Shown) -> Iterator[LyingProvider]:
    """The liar."""
    with lying_provider.running(shown) as running:
        yield running


@pytest.fixture
async def world(database_url: str, tmp_path: Path, provider: LyingProvider, shown: Shown) -> AsyncIterator[World]:
    """A coordinator that trusts it."""
    more = variables(provider.issuer, shown.ca)
    async with open_world(world_variables(database_url, tmp_path, **more)) as opened:
        yield opened


async def sign_in(world: World, provider: LyingProvider, browser: Browser | None = None, **more: str) -> httpx.Response:
    """Go there and come back with a token for this sign-in."""
    browser = browser or Browser(world)
    asked = query_of(await browser.begin())
    provider.sign(asked["nonce"])
    return await browser.come_back(**{"state": asked["state"], "code": "c-1", **more})


async def refused(world: World, response: httpx.Response, status: int, word: str) -> None:
    """See that nobody has come in, that the reason is told, and that it is on record."""
    assert word in problem(response, status)["detail"], response.text
    assert "__Host-certctl=" not in str(response.headers)
    assert await world.value("SELECT count(*) FROM sessions") == 0
    (event,) = await world.rows("SELECT actor, action, details FROM audit_events ORDER BY id DESC LIMIT 1")
    assert (event["actor"], event["action"]) == ("anonymous", "person.login_failed")
    assert word in event["details"]["detail"]


async def test_without_a_lie_it_works(world: World, provider: LyingProvider) -> None:
    browser = Browser(world)
    assert (await sign_in(world, provider, browser)).status_code == 302
    assert (await browser.whoami())["role"] == "operator"
    assert set(provider.forms[0]) >= {"code", "code_verifier", "redirect_uri", "grant_type"}
    assert "/userinfo" not in provider.asked, "it is asked only for what the token does not say"


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"nonce": "n" * 43}, "another sign-in"),
    "no nonce": ({"nonce": None}, "another sign-in"),
    "another audience": ({"aud": "somebody"}, "another application"),
    "no audience": ({"aud": None}, "another application"),
    "the audience within a text": ({"aud": f"{CLIENT_ID} somebody"}, "another application"),
    "two audiences and no party": ({"aud": [CLIENT_ID, "somebody"]}, "given to another"),
    "another party": ({"aud": [CLIENT_ID, "somebody"], "azp": "somebody"}, "given to another"),
    "another party alone": ({"azp": "somebody"}, "given to another"),
    "another issuer": ({"iss": "https://evil.example"}, "another issuer"),
    "the issuer with a slash": ({"iss": "https://localhost/"}, "another issuer"),
    "no issuer": ({"iss": None}, "another issuer"),
    "expired": ({"exp": NOW - 3600}, "expired"),
    "no end": ({"exp": None}, "does not say exp"),
    "an end in words": ({"exp": "tomorrow"}, "does not say exp"),
    "true as an end": ({"exp": True}, "does not say exp"),
    "of the future": ({"iat": NOW + 3600}, "future"),
    "not yet valid": ({"nbf": NOW + 3600}, "future"),
    "made long ago": ({"iat": NOW - 86400}, "old one"),
    "no beginning": ({"iat": None}, "does not say iat"),
    "nobody": ({"sub": None}, "names nobody"),
    "an empty subject": ({"sub": ""}, "names nobody"),
    "a number for a subject": ({"sub": 7}, "names nobody"),
    "a long subject": ({"sub": "x" * 256}, "names nobody"),
    "another access token": ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "another access token"),
}


async def test_a_claim_that_is_wrong(world: World, provider: LyingProvider, subtests: pytest.Subtests) -> None:
    for lie, (claims, word) in LIES.items():
        with subtests.test(lie):
            provider.claims = claims
            await refused(world, await sign_in(world, provider), 401, word)


async def come_back_with(world: World, provider: LyingProvider, header: dict[str, Any], secret: bytes | None) -> Any:
    browser = Browser(world)
    asked = query_of(await browser.begin())
    provider.sign(asked["nonce"])
    provider.forge(header, secret)
    return await browser.come_back(state=asked["state"], code="c-1")


ALGORITHMS = ["none", "None", "NONE", "", "HS256", "HS512", "dir", "RSA1_5", "ES256K", None, 7, ["RS256"]]


async def test_a_signature_of_a_kind_that_is_not_taken(
    world: World, provider: LyingProvider, subtests: pytest.Subtests
) -> None:
    for algorithm in ALGORITHMS:
        with subtests.test(str(algorithm)):
            response = await come_back_with(world, provider, {"alg": algorithm, "kid": "first"}, None)
            await refused(world, response, 401, "is signed in a way that is not taken")


async def test_hmac_with_the_public_key_as_its_secret(world: World, provider: LyingProvider) -> None:
    key, modulus = provider.key, str(provider.published[0]["n"]).encode()
    assert isinstance(key, RSAKey)
    for secret in (key.as_pem(private=False), key.as_der(private=False), modulus):
        response = await come_back_with(world, provider, {"alg": "HS256", "kid": "first"}, secret)
        await refused(world, response, 401, "is signed in a way that is not taken")


async def test_a_key_out_of_the_tokens_own_header(world: World, provider: LyingProvider) -> None:
    own = RSAKey.generate_key(2048, {"kid": "first"})
    provider.key, provider.header = own, {"jwk": own.as_dict(private=False), "jku": "https://evil.example/jwks"}
    await refused(world, await sign_in(world, provider), 401, "not signed by the provider")


async def test_a_header_that_has_to_be_understood(world: World, provider: LyingProvider) -> None:
    headers: list[dict[str, Any]] = [{"crit": ["exp"]}, {"b64": False, "crit": ["b64"]}, {"b64": True}]
    for header in headers:
        response = await come_back_with(world, provider, {"alg": "RS256", "kid": "first", **header}, b"x")
        await refused(world, response, 401, "token is")


async def test_a_signature_over_something_else(world: World, provider: LyingProvider) -> None:
    browser = Browser(world)
    asked = query_of(await browser.begin())
    provider.sign(asked["nonce"])
    head, _, signature = provider.token.split(".")
    provider.claims = {"groups": ["certctl-admins"]}
    provider.sign(asked["nonce"])
    provider.token = ".".join((head, provider.token.split(".")[1], signature))
    await refused(world, await browser.come_back(state=asked["state"], code="c-1"), 401, "not signed by the provider")


async def test_what_is_no_token(world: World, provider: LyingProvider, subtests: pytest.Subtests) -> None:
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 9000).decode().rstrip("=")
    for token in ("", "a", "a.b", "a.b.c", "a.b.c.d.e", "." * 200, "ä.ö.ü", "x" * 70_000, f"{deep}.e30.AAAA"):
        with subtests.test(token[:20]):
            browser = Browser(world)
            asked = query_of(await browser.begin())
            provider.token = token
            response = await browser.come_back(state=asked["state"], code="c-1")
            await refused(world, response, 401, "token is")


async def test_keys_that_do_not_sign(
    world: World, provider: LyingProvider, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(provider_module, "KEPT_S", 0.0)
    public = provider.published[0]
    sets: dict[str, list[Any]] = {
        "weak RSA": [{**public, "n": public["n"][:170]}],
        "for encryption": [{**public, "use": "enc"}],
        "HMAC": [{"kty": "oct", "k": "c2VjcmV0", "kid": "first"}],
        "of another kind": [{**public, "kty": "EC"}],
        "for another algorithm": [{**public, "alg": "PS256"}],
        "broken": [{**public, "n": "***"}, {"kty": "RSA"}, {}, "key", None],
        "none at all": [],
    }
    for name, published in sets.items():
        with subtests.test(name):
            provider.published = published
            await refused(world, await sign_in(world, provider), 401, "that it does not publish")


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_keys_of_every_kind_are_taken(
    world: World, provider: LyingProvider, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(provider_module, "KEPT_S", 0.0)
    parameters: KeyParameters = {"kid": "k"}
    okp, ec = (
        OKPKey.generate_key("Ed25519", parameters),
        {curve: ECKey.generate_key(curve, parameters) for curve in ("P-256", "P-384", "P-521")},
    )
    kinds: list[tuple[str, lying_provider.Key]] = [
        *zip(("ES256", "ES384", "ES512"), ec.values(), strict=True),
        *(("EdDSA", okp), ("Ed25519", okp)),
        *((algorithm, provider.key) for algorithm in ("RS384", "RS512", "PS256", "PS384", "PS512")),
    ]
    for algorithm, key in kinds:
        with subtests.test(algorithm):
            provider.key, provider.algorithm = key, algorithm
            provider.published = [dict(key.as_dict(private=False))]
            provider.header = {"kid": None, "x5c": ["x" * 2000]}
            assert (await sign_in(world, provider)).status_code == 302


async def test_a_new_key_is_fetched_once_it_is_used_and_not_too_often(
    world: World, provider: LyingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "_KEYS_AGAIN_S", 0.0)
    assert (await sign_in(world, provider)).status_code == 302
    assert (await sign_in(world, provider)).status_code == 302
    assert provider.asked.count("/jwks") == 1, "keys are kept"
    provider.key = RSAKey.generate_key(2048, {"kid": "second"})
    provider.published.append(dict(provider.key.as_dict(private=False)))
    assert (await sign_in(world, provider)).status_code == 302
    assert provider.asked.count("/jwks") == 2
    monkeypatch.setattr(provider_module, "_KEYS_AGAIN_S", 30.0)
    provider.key = RSAKey.generate_key(2048, {"kid": "third"})
    for _ in range(3):
        problem(await sign_in(world, provider), 401)
    assert provider.asked.count("/jwks") == 2
    monkeypatch.setattr(provider_module, "KEPT_S", 0.0)
    provider.published = [dict(provider.key.as_dict(private=False))]
    assert (await sign_in(world, provider)).status_code == 302, "and what was withdrawn is forgotten"


async def test_an_answer_of_another_issuer_is_a_mix_up(world: World, provider: LyingProvider) -> None:
    await refused(world, await sign_in(world, provider, iss="https://evil.example"), 401, "another identity provider")
    assert "/token" not in provider.asked, "the code is not handed on"


async def test_an_issuer_that_says_it_names_itself_has_to(world: World, provider: LyingProvider) -> None:
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    assert (await sign_in(world, provider, iss=provider.issuer)).status_code == 302
    await world.execute("DELETE FROM sessions")
    await refused(world, await sign_in(world, provider), 401, "another identity provider")


async def test_an_error_of_the_provider_is_told_without_its_words(world: World, provider: LyingProvider) -> None:
    response = await sign_in(world, provider, code="", error="access_denied<script>")
    await refused(world, response, 401, "(access_deniedscript)")


STRANGE = [
    ("/token", 400, b'{"error": "invalid_grant"}', 401, "does not take the code"),
    ("/token", 401, b'{"error": "invalid_client"}', 500, "CERTCTL_OIDC_CLIENT_SECRET"),
    ("/token", 500, b"<html>", 503, "answers 500"),
    ("/token", 200, b"[]", 503, "cannot be read"),
    ("/token", 302, b"https://evil.example/token", 503, "answers 302"),
    ("/token", 200, b" " * 300_000, 503, "more than"),
    ("/jwks", 200, b'{"keys": {}}', 503, "cannot be read"),
    ("/jwks", 200, b'{"keys": [' + b"{}," * 60 + b"{}]}", 503, "cannot be read"),
    ("/jwks", 404, b"", 503, "answers 404"),
]


async def test_an_endpoint_that_does_something_else(
    world: World, provider: LyingProvider, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(provider_module, "KEPT_S", 0.0)
    for path, status, body, told, word in STRANGE:
        with subtests.test(f"{path} {status} {body[:20]!r}"):
            provider.answers[path] = (status, body)
            await refused(world, await sign_in(world, provider), told, word)
            provider.answers.clear()
            assert (await sign_in(world, provider)).status_code == 302, "and afterwards all is well"
            await world.execute("DELETE FROM sessions")


async def test_a_discovery_document_that_is_not_right(world: World, provider: LyingProvider) -> None:
    documents: list[tuple[dict[str, Any], int, str]] = [
        ({"issuer": "https://evil.example"}, 500, "CERTCTL_OIDC_ISSUER"),
        ({"token_endpoint": "http://localhost/token"}, 503, "without TLS"),
        ({"jwks_uri": "file:///etc/passwd"}, 503, "without TLS"),
        ({"authorization_endpoint": None}, 503, "cannot be read"),
    ]
    for metadata, status, word in documents:
        provider.metadata = metadata
        response = await Browser(world).http.get("/auth/oidc/login")
        assert word in problem(response, status)["detail"]


async def test_a_provider_that_is_not_trusted_or_away_is_said_to_be_so(
    database_url: str, tmp_path: Path, provider: LyingProvider, shown: Shown
) -> None:
    away = {**variables("https://localhost:1", shown.ca)}
    stranger = {**variables(provider.issuer, shown.ca)}
    del stranger["CERTCTL_OIDC_CA_BUNDLE_PATH"]
    for more in (away, stranger):
        async with open_world(world_variables(database_url, tmp_path, **more)) as world:
            problem(await Browser(world).http.get("/auth/oidc/login"), 503)
            assert (await world.call("GET", "/api/v1/auth/check")).is_success, "keys work all the same"


async def test_a_sign_in_that_took_too_long_is_none(world: World, provider: LyingProvider) -> None:
    browser = Browser(world)
    asked = query_of(await browser.begin())
    provider.sign(asked["nonce"])
    world.clock.advance(timedelta(minutes=11))
    problem(await browser.come_back(state=asked["state"], code="c-1"), 400, "state")
    assert "/token" not in provider.asked


async def test_state_and_cookie_belong_together(world: World, provider: LyingProvider) -> None:
    browser = Browser(world)
    one, two = query_of(await browser.begin()), query_of(await browser.begin())
    names = {name[-12:]: name for name in browser.http.cookies}
    first, second = (names[asked["state"][:12]] for asked in (one, two))
    mine, other = browser.http.cookies[first], browser.http.cookies[second]
    for sent, state in (
        *((mine, state) for state in (two["state"], one["state"][:12] + "x" * 31, "", "x", "../" * 10, "ä" * 43)),
        *((broken, one["state"]) for broken in (other, "", "x", "!!!", "AAAA", mine[:-4], mine[::-1])),
    ):
        query, headers = {"state": state, "code": "c-1"}, {"Cookie": f"{first}={sent}"}
        problem(await world.http.get("/auth/oidc/callback", params=query, headers=headers), 400, "state")
    assert provider.forms == []


ELSEWHERE = [
    *("//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "javascript:alert(1)", ""),
    *("evil", "/\t/evil.example", "/a\r\nSet-Cookie: a=b", "/" + "a" * 2000, "/ü"),
]


async def test_the_way_back_stays_here(world: World, provider: LyingProvider, subtests: pytest.Subtests) -> None:
    for path in ELSEWHERE:
        with subtests.test(path[:30]):
            response = await Browser(world).http.get("/auth/oidc/login", params={"return_to": path})
            problem(response, 400, "return_to")
    assert provider.asked == []


async def test_claims_that_the_token_lacks_come_from_userinfo_of_the_same_person(
    world: World, provider: LyingProvider
) -> None:
    provider.claims = {"groups": None}
    provider.userinfo = {"sub": "u-1", "groups": ["certctl-admins"], "name": "Somebody else"}
    browser = Browser(world)
    assert (await sign_in(world, provider, browser)).status_code == 302
    told = await browser.whoami()
    assert (told["role"], told["user"]) == ("admin", "Ada"), "what is signed goes first"
    await world.execute("DELETE FROM sessions")
    provider.userinfo["sub"] = "u-2"
    await refused(world, await sign_in(world, provider), 403, "nothing in your claim")


async def test_secrets_reach_neither_log_nor_audit(
    world: World, provider: LyingProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = Browser(world)
    await sign_in(world, provider, browser)
    provider.claims = {"exp": 1}
    asked = query_of(await browser.begin())
    provider.sign(asked["nonce"])
    await browser.come_back(state=asked["state"], code="c-secret-code")
    told = "".join(capsys.readouterr()) + str(await world.rows("SELECT details::text FROM audit_events"))
    secrets = ("c-secret-code", provider.token, "at-1", browser.session, provider.forms[0]["code_verifier"])
    assert [secret for secret in secrets if secret in told] == []
