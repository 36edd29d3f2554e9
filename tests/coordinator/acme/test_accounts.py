"""Accounts: made, found again, bound, changed, re-keyed, deactivated; none touches another's."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.enrollment.acme import routes
from core import acme
from tests.coordinator.acme.client import ON, Client, new_key, refused, signed
from tests.coordinator.world import World, open_world, problem, variables

pytestmark = pytest.mark.anyio
EAB_ON = {"CERTCTL_ACME_SERVER_ENABLED": "true"}


async def test_a_key_has_one_account(world: World) -> None:
    client = Client(world)
    first = await client.register(contact=["mailto:ada@example.com"])
    assert (first.status_code, first.json()["status"]) == (201, "valid")
    again = await client.register()
    assert (again.status_code, again.headers["location"]) == (200, first.headers["location"])
    assert again.json()["contact"] == ["mailto:ada@example.com"]
    found = await client.post("new-account", {"onlyReturnExisting": True}, by_key=True)
    assert (found.status_code, found.headers["location"]) == (200, client.kid)
    refused(
        await Client(world).post("new-account", {"onlyReturnExisting": True}, by_key=True), "accountDoesNotExist", 400
    )


async def test_accounts_belong_to_their_profile(world: World) -> None:
    await world.post("/api/v1/profiles", {"id": "prof-other", "name": "other", "max_lifetime_s": 3600})
    client, other = Client(world), Client(world, "/acme/profile/prof-other")
    await client.register()
    other.key, other.kid = client.key, client.kid
    refused(await other.post("new-order", {}), "accountDoesNotExist")


async def test_an_account_goes_by_both_urls_of_the_default_profile(client: Client) -> None:
    long = Client(client.world, "/acme/profile/prof-default", client.key)
    long.kid = client.kid
    assert (await long.order("a.example")).status_code == 201


@pytest.mark.parametrize(
    "contact, kind",
    [
        ("tel:+1", "unsupportedContact"),
        ("mailto:a@x,b@y", "invalidContact"),
        ("mailto:a@x?cc=b@y", "invalidContact"),
        ("mailto:nobody", "invalidContact"),
        ("mailto:a\n@x", "invalidContact"),
    ],
)
async def test_contacts_are_addresses(world: World, contact: str, kind: str) -> None:
    refused(await Client(world).register(contact=[contact]), kind, 400)


async def test_contacts_are_changed_and_accounts_deactivated(client: Client) -> None:
    changed = await client.post(client.kid, {"contact": ["mailto:new@example.com"]})
    assert changed.json()["contact"] == ["mailto:new@example.com"]
    gone = await client.post(client.kid, {"status": "deactivated"})
    assert gone.json()["status"] == "deactivated"
    refused(await client.post(client.kid), "unauthorized", 403)
    refused(await client.register(), "unauthorized")
    refused(await client.order("a.example"), "unauthorized")
    actions = {row["action"] for row in await client.world.rows("SELECT action FROM audit_events")}
    assert {"acme_account.created", "acme_account.updated", "acme_account.deactivated"} <= actions


async def test_nobody_reads_or_changes_anothers(client: Client) -> None:
    other = Client(client.world)
    await other.register()
    order = (await client.order("a.example")).json()
    url = (await client.order("b.example")).headers["location"]
    for target, payload in (
        (client.kid, None),
        (client.kid, {"status": "deactivated"}),
        (client.kid + "/orders", None),
    ):
        refused(await other.post(target, payload), "unauthorized", 403)
    for target in (url, order["finalize"], order["authorizations"][0]):
        refused(await other.post(target, None if target != order["finalize"] else {"csr": "AA"}), "malformed", 404)
    done_ = (await client.finalize(order)).json()
    refused(await other.post(done_["certificate"]), "malformed", 404)


async def test_orders_are_listed_in_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.enrollment.acme.accounts.PAGE", 2)
    made = [(await client.order(f"n{number}.example")).headers["location"] for number in range(5)]
    url, found = client.kid + "/orders", list[str]()
    while url:
        response = await client.post(url)
        found += response.json()["orders"]
        links = [link for link in response.headers.get_list("link") if 'rel="next"' in link]
        url = links[0].split("<")[1].split(">")[0] if links else ""
    assert found == made[::-1]


async def change_key(client: Client, new: Any, **bend: Any) -> Any:
    url = f"{client.url}/key-change"
    inner = {"account": client.kid, "oldKey": client.key.as_dict(private=False)} | bend.get("payload", {})
    header = {"alg": "ES256", "url": url, "jwk": new.as_dict(private=False)} | bend.get("header", {})
    return await client.post(url, signed(header, json.dumps(inner).encode(), bend.get("signer", new)))


async def test_a_key_is_changed(client: Client) -> None:
    old, new = client.key, new_key()
    assert (await change_key(client, new)).status_code == 200
    refused(await client.post(client.kid), "unauthorized")
    client.key = new
    assert (await client.post(client.kid)).status_code == 200
    taken = Client(client.world, key=old)
    assert (await taken.register()).status_code == 201
    conflict = await change_key(client, old)
    assert (conflict.status_code, conflict.headers["location"]) == (409, taken.kid)


@pytest.mark.parametrize(
    "bend",
    [
        {"payload": {"account": "https://certctl.test/acme/account/aca-other"}},
        {"payload": {"oldKey": new_key().as_dict(private=False)}},
        {"header": {"url": "https://certctl.test/acme/x"}},
        {"header": {"nonce": "AAAA"}},
        {"signer": new_key()},
        {"header": {"alg": "HS256"}},
    ],
    ids=["another account", "another old key", "another URL", "a nonce", "another signer", "a MAC"],
)
async def test_a_bent_key_change_is_refused(client: Client, bend: dict[str, Any]) -> None:
    response = await change_key(client, new_key(), **bend) if bend != {"header": {"alg": "HS256"}} else None
    if response is not None:
        assert response.status_code in {400, 403}, response.text
    assert (await client.post(client.kid)).status_code == 200


@pytest.fixture
async def closed(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator that takes bound accounts only."""
    async with open_world(variables(database_url, tmp_path, **EAB_ON)) as opened:
        yield opened


def binding(client: Client, kid: str, hmac_key: str, **bend: Any) -> dict[str, str]:
    return client.bound(kid, hmac_key, **bend)


async def test_trust_needs_an_external_account(closed: World) -> None:
    assert (await closed.http.get("/acme/directory")).json()["meta"]["externalAccountRequired"] is True
    client = Client(closed)
    refused(await client.register(), "externalAccountRequired", 403)
    made = await closed.post("/api/v1/acme-eab-keys", {"name": "web", "allowed_names": ["*.shop.example"]})
    response = await client.register(externalAccountBinding=binding(client, made["id"], made["hmac_key"]))
    assert response.status_code == 201, response.text
    assert (await client.order("a.shop.example")).status_code == 201
    found = refused(await client.order("a.shop.example", "evil.example"), "rejectedIdentifier")
    assert [each["identifier"]["value"] for each in found["subproblems"]] == ["evil.example"]
    second = Client(closed)
    again = await second.register(externalAccountBinding=binding(second, made["id"], made["hmac_key"]))
    refused(again, "unauthorized", 403)


async def test_a_binding_that_ends_ends_new_certificates(closed: World) -> None:
    client, made = Client(closed), await closed.post("/api/v1/acme-eab-keys", {"name": "web"})
    await client.register(externalAccountBinding=binding(client, made["id"], made["hmac_key"]))
    assert (await client.order("a.example")).status_code == 201
    assert (await closed.call("DELETE", f"/api/v1/acme-eab-keys/{made['id']}")).status_code == 204
    refused(await client.order("a.example"), "rejectedIdentifier")
    other = Client(closed)
    bound = await other.register(externalAccountBinding=binding(other, made["id"], made["hmac_key"]))
    refused(bound, "unauthorized")


@pytest.mark.parametrize(
    "bend",
    [
        {"header": {"alg": "ES256"}},
        {"header": {"url": "https://certctl.test/acme/x"}},
        {"header": {"nonce": "AAAA"}},
        {"header": {"kid": "eab-nobody"}},
        {"payload": new_key().as_dict(private=False)},
        {"payload": ["x"]},
        {"key": "A" * 43},
    ],
    ids=["no MAC", "another URL", "a nonce", "another kid", "another key", "no key", "another secret"],
)
async def test_a_bent_binding_is_refused(closed: World, bend: dict[str, Any]) -> None:
    client, made = Client(closed), await closed.post("/api/v1/acme-eab-keys", {"name": "web"})
    if bend == {"header": {"alg": "ES256"}}:
        header = {"alg": "ES256", "kid": made["id"], "url": f"{client.url}/new-account"}
        inner = signed(header, json.dumps(client.key.as_dict(private=False)).encode(), client.key)
    else:
        inner = binding(client, made["id"], bend.get("key", made["hmac_key"]), **bend)
    response = await client.register(externalAccountBinding=inner)
    assert response.status_code in {400, 403}, response.text
    assert await closed.value("SELECT count(*) FROM acme_accounts") == 0


async def test_keys_are_for_their_profiles_and_their_owners(closed: World) -> None:
    await closed.post("/api/v1/profiles", {"id": "prof-other", "name": "other", "max_lifetime_s": 86400})
    await closed.post("/api/v1/teams", {"id": "team-shop", "name": "shop"})
    wish = {"name": "x", "profile_ids": ["prof-other"], "team_id": "team-shop", "environment": "prod"}
    made = await closed.post("/api/v1/acme-eab-keys", wish)
    assert made["directory_url"].endswith("/acme/profile/prof-other/directory")
    wrong, right = Client(closed), Client(closed, "/acme/profile/prof-other")
    refused(await wrong.register(externalAccountBinding=binding(wrong, made["id"], made["hmac_key"])), "unauthorized")
    await right.register(externalAccountBinding=binding(right, made["id"], made["hmac_key"]))
    await right.certificate("a.example")
    (certificate,) = (await closed.get("/api/v1/certificates", environment="prod"))["data"]
    assert (certificate["team_id"], certificate["source"], certificate["profile_id"]) == (
        "team-shop",
        "acme",
        "prof-other",
    )


def test_an_hmac_key_does_not_begin_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certbot refuses ``--eab-hmac-key -Pj4…``."""
    drawn = iter([b"\xf8" * 32, b"\xfb" + bytes(31), bytes(32)])
    monkeypatch.setattr(os, "urandom", lambda _size: next(drawn))
    assert routes.new_hmac_key() == bytes(32)


async def test_the_hmac_key_is_nowhere(closed: World) -> None:
    made = await closed.post("/api/v1/acme-eab-keys", {"name": "web"})
    secret = acme.decode(made["hmac_key"])
    row = await closed.value("SELECT sealed_key FROM acme_eab_keys")
    shown = json.dumps(await closed.get(f"/api/v1/acme-eab-keys/{made['id']}"))
    events = json.dumps([str(row) for row in await closed.rows("SELECT * FROM audit_events")])
    assert secret not in row
    assert made["hmac_key"] not in shown + events


@pytest.mark.parametrize(
    "body, field",
    [
        ({"name": ""}, "name"),
        ({"name": "x", "profile_ids": ["prof-nobody"]}, "profile_ids[0]"),
        ({"name": "x", "allowed_names": ["[x"]}, "allowed_names[0]"),
        ({"name": "x", "team_id": "team-nobody"}, "team_id"),
        ({"name": "x", "owner_id": "o-nobody"}, "owner_id"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ],
)
async def test_wrong_keys_are_refused_by_field(closed: World, body: dict[str, Any], field: str) -> None:
    found = problem(await closed.call("POST", "/api/v1/acme-eab-keys", json=body), 400)
    assert found["errors"][0]["field"] == field
    assert await closed.value("SELECT count(*) FROM acme_eab_keys") == 0


async def test_terms_have_to_be_agreed_to(database_url: str, tmp_path: Path) -> None:
    terms = {"CERTCTL_ACME_SERVER_TOS_URL": "https://pki.test/terms"}
    async with open_world(variables(database_url, tmp_path, **ON, **terms)) as world:
        client = Client(world)
        assert (await world.http.get("/acme/directory")).json()["meta"]["termsOfService"] == "https://pki.test/terms"
        response = await client.register(termsOfServiceAgreed=False)
        refused(response, "userActionRequired", 403)
        assert any('rel="terms-of-service"' in link for link in response.headers.get_list("link"))
        assert (await client.register()).json()["termsOfServiceAgreed"] is True


async def test_an_operator_ends_an_account(client: Client) -> None:
    account = client.kid.rpartition("/")[2]
    shown = await client.world.post(f"/api/v1/acme-accounts/{account}/revoke")
    assert shown["status"] == "revoked"
    refused(await client.post(client.kid), "unauthorized")
    problem(await client.world.call("POST", f"/api/v1/acme-accounts/{account}/revoke", json={}), 409)
