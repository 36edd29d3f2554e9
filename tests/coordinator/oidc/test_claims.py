"""What the claims of somebody give them here."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.oidc.claims import lacks_claims, person_of, values_of
from coordinator.oidc.settings import OIDCSettings
from coordinator.settings import load
from core.errors import Forbidden

GIVEN = {
    "CERTCTL_OIDC_ISSUER": "https://id.example.com",
    "CERTCTL_OIDC_CLIENT_ID": "certctl",
    "CERTCTL_OIDC_ROLE_MAP": "admins=admin,auditors=auditor,ops=operator",
}


def settings(**more: str) -> OIDCSettings:
    found = load({**GIVEN, **{f"CERTCTL_OIDC_{name}": value for name, value in more.items()}}).oidc
    assert found is not None
    return found


@pytest.mark.parametrize(
    "claims,name,values",
    [
        ({"groups": ["a", "b"]}, "groups", ("a", "b")),
        ({"role": "a"}, "role", ("a",)),
        ({"role": "a b"}, "role", ("a b",)),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ("a",)),
        ({"https://example.com/roles": ["a"]}, "https://example.com/roles", ("a",)),
        ({"a.b": "exact", "a": {"b": "nested"}}, "a.b", ("exact",)),
        ({"groups": ["a", 7, None, {}, ""]}, "groups", ("a",)),
        ({"groups": {"admins": True}}, "groups", ()),
        ({"groups": True}, "groups", ()),
        ({"a": "text"}, "a.b.c", ()),
        ({}, "groups", ()),
    ],
)
def test_the_values_of_a_claim(claims: dict[str, Any], name: str, values: tuple[str, ...]) -> None:
    assert values_of(claims, name) == values


@pytest.mark.parametrize(
    "groups,role",
    [
        (["ops", "admins"], "admin"),
        (["ops", "auditors"], "auditor"),
        ("ops", "operator"),
        (["staff", "ops"], "operator"),
    ],
)
def test_the_first_entry_of_the_map_that_fits_decides(groups: Any, role: str) -> None:
    assert person_of(settings(), {"sub": "u", "groups": groups}).role == role


@pytest.mark.parametrize("groups", [None, [], "", ["Admins"], ["admins "], "admins,ops", ["admin"], {"admins": 1}])
def test_what_fits_nothing_gives_nothing(groups: Any) -> None:
    with pytest.raises(Forbidden, match="CERTCTL_OIDC_ROLE_MAP"):
        person_of(settings(), {"sub": "u", "groups": groups})


@pytest.mark.parametrize(
    "mapped,values,teams",
    [
        ("", ["team-b", "team-a"], ("team-a", "team-b")),
        ("web=team-web,db=team-db", ["web", "team-db"], ("team-web",)),
        ("web=team-web,platform=*", ["platform", "web"], None),
        ("", ["*"], ("*",)),
    ],
)
def test_teams_come_from_a_claim_of_their_own(mapped: str, values: list[str], teams: tuple[str, ...] | None) -> None:
    more = {"TEAM_CLAIM": "departments", **({"TEAM_MAP": mapped} if mapped else {})}
    assert person_of(settings(**more), {"sub": "u", "groups": "ops", "departments": values}).teams == teams


def test_without_a_claim_for_teams_nobody_is_limited_and_with_one_who_has_none_stays_out() -> None:
    assert person_of(settings(), {"sub": "u", "groups": "ops"}).teams is None
    with pytest.raises(Forbidden, match="CERTCTL_OIDC_TEAM_MAP"):
        person_of(settings(TEAM_CLAIM="departments"), {"sub": "u", "groups": "ops"})


def test_names_are_cut_and_hold_nothing_that_a_terminal_obeys() -> None:
    person = person_of(settings(), {"sub": "u", "groups": "ops", "name": "A\x1b[2Jda" + "x" * 500, "email": 7})
    assert person.name.startswith("A[2Jda")
    assert (len(person.name), person.email) == (200, "")
    assert person_of(settings(), {"sub": "u", "groups": "ops", "preferred_username": "ada"}).name == "ada"


def test_userinfo_is_worth_asking_when_a_claim_that_decides_is_missing() -> None:
    assert lacks_claims(settings(), {"sub": "u"})
    assert not lacks_claims(settings(), {"sub": "u", "groups": []})
    assert lacks_claims(settings(TEAM_CLAIM="departments"), {"sub": "u", "groups": []})
