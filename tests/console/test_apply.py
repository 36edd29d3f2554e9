"""Things as files declare them, against a real coordinator: planned, compared, made, changed, archived, written out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from console.errors import ExitCode
from tests.console.platform import Platform, running
from tests.postgres import PostgresServer

SHOP = """
# In no good order on purpose.
kind: Certificate
id: mc-shop
spec:
  common_name: Shop.example.com
  sans: [www.shop.example.com]
  profile_id: prof-shop
  owner_id: o-ada
  team_id: team-shop
  renewal_policy_id: rp-shop
  environment: production
  tags: {service: shop}
---
kind: Profile
id: prof-shop
spec:
  name: Shops
  max_lifetime_s: 4060800
  key_algorithms: [{algorithm: ECDSA, min_size: 256}]
  default_issuer_id: iss-shop
  allowed_names: ["**.example.com", shop.example.com]
---
kind: issuer
id: iss-shop
spec: {name: Shop CA, config: {parent_issuer_id: iss-root}}
---
kind: issuers
id: iss-root
spec: {name: Shop root, config: {path_length: 1}}
---
kind: owner
id: o-ada
spec: {name: Ada, email: ada@example.com, team_id: team-shop}
---
kind: Team
id: team-shop
spec: {name: Shop, description: runs the shops}
---
kind: renewal-policy
id: rp-shop
spec: {name: Shops, days_before: 10, agent_group_id: grp-shop}
---
kind: AgentGroup
id: grp-shop
spec: {name: Shop hosts, match_ip_cidr: 10.0.0.0/8}
---
kind: policy
id: pol-shop
spec: {name: Shop names, type: allowed_domains, config: {patterns: ["**.example.com"]}}
"""
MADE = 9
CIRCLE = """\
kind: Issuer
id: iss-x
spec: {name: x, config: {parent_issuer_id: iss-y}}
---
kind: Issuer
id: iss-y
spec: {name: y, config: {parent_issuer_id: iss-x}}
"""


@pytest.fixture(scope="module")
def platform(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with postgres_server.fresh_database() as dsn, running(tmp_path_factory.mktemp("one"), dsn) as opened:
        yield opened


def pending(platform: Platform, *arguments: str, code: int = ExitCode.OK, stdin: str | None = None) -> dict[str, Any]:
    return dict(json.loads(platform.certctl(*arguments, "--json", stdin=stdin, code=code).stdout))


def test_what_is_declared_is_made_in_an_order_that_works_and_then_nothing_is_left(platform: Platform) -> None:
    said = platform.certctl("plan", "-f", "-", stdin=SHOP, code=ExitCode.PENDING)
    assert said.stdout.count("+ ") == MADE
    assert said.stderr == f"{MADE} to make, 0 to change, 0 to archive, 0 as declared\n"
    places = {line.split()[2]: place for place, line in enumerate(said.stdout.splitlines())}
    for before, after in (
        ("team-shop", "o-ada"),
        ("iss-root", "iss-shop"),
        ("iss-shop", "prof-shop"),
        ("grp-shop", "rp-shop"),
        ("o-ada", "mc-shop"),
        ("prof-shop", "mc-shop"),
    ):
        assert places[before] < places[after]
    assert pending(platform, "apply", "--dry-run", "-f", "-", stdin=SHOP, code=ExitCode.PENDING)["pending"] == MADE
    platform.certctl("teams", "get", "team-shop", code=ExitCode.NOT_DONE)  # nothing was made by looking
    made = platform.certctl("apply", "-f", "-", stdin=SHOP)
    assert made.stderr == f"{MADE} made, 0 changed, 0 archived\n"
    # What the API keeps in a form of its own (names, algorithms) is no difference.
    assert pending(platform, "diff", "-f", "-", stdin=SHOP)["pending"] == 0
    assert pending(platform, "apply", "-f", "-", stdin=SHOP)["pending"] == 0
    assert json.loads(platform.certctl("teams", "get", "team-shop", "--json").stdout)["revision"] == 1


def test_a_difference_is_told_field_by_field_and_only_that_is_changed(platform: Platform) -> None:
    platform.certctl("apply", "-f", "-", stdin=SHOP)
    platform.certctl("teams", "update", "team-shop", "--set", "description=by hand")
    changed = SHOP.replace("name: Shop,", "name: Shops,").replace("{service: shop}", "{service: shops, tier: null}")
    said = platform.certctl("diff", "-f", "-", stdin=changed, code=ExitCode.PENDING)
    assert said.stdout.splitlines() == [
        "~ Team team-shop",
        "  - name: Shop",
        "  + name: Shops",
        "  - description: by hand",
        "  + description: runs the shops",
        "~ Certificate mc-shop",
        "  - tags.service: shop",
        "  + tags.service: shops",
    ]
    assert "\x1b" not in said.output
    platform.certctl("apply", "-f", "-", stdin=changed)
    team = json.loads(platform.certctl("teams", "get", "team-shop", "--json").stdout)
    assert (team["name"], team["description"]) == ("Shops", "runs the shops")
    kept = "kind: Team\nid: team-shop\nspec: {name: Shop}\n"
    platform.certctl("apply", "-f", "-", stdin=kept)
    team = json.loads(platform.certctl("teams", "get", "team-shop", "--json").stdout)
    assert (team["name"], team["description"]) == ("Shop", "runs the shops"), "what is not said stays"
    reset = "kind: Team\nid: team-shop\nspec: {description: null}\n"
    assert pending(platform, "diff", "-f", "-", stdin=reset, code=ExitCode.PENDING)["changes"][0]["fields"] == [
        {"path": "description", "before": "runs the shops", "after": ""}
    ]
    platform.certctl("apply", "-f", "-", stdin=reset)
    assert pending(platform, "diff", "-f", "-", stdin=reset)["pending"] == 0


def test_a_change_in_between_is_noticed(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.certctl("apply", "-f", "-", stdin=SHOP)
    text = "kind: Team\nid: team-shop\nspec: {name: From the file}\n---\nkind: Owner\nid: o-ada\nspec: {name: Eve}\n"
    send = httpx.Client.request

    def meddled(self: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        if method == "PATCH":
            headers = {"Content-Type": "application/json"}
            assert send(self, method, path, content=b'{"name": "Somebody else"}', headers=headers).is_success
        return send(self, method, path, **options)

    monkeypatch.setattr(httpx.Client, "request", meddled)
    result = platform.certctl("apply", "-f", "-", stdin=text, code=ExitCode.NOT_DONE)
    assert "team-shop was changed by somebody else" in result.stderr
    assert "2 left" in result.stderr
    monkeypatch.undo()
    assert json.loads(platform.certctl("teams", "get", "team-shop", "--json").stdout)["name"] == "Somebody else"
    assert json.loads(platform.certctl("owners", "get", "o-ada", "--json").stdout)["name"] == "Ada"


def test_only_certificates_of_the_set_are_pruned_and_not_without_being_asked(platform: Platform) -> None:
    one = "kind: Certificate\nid: mc-{0}\nspec: {{common_name: {0}.example.com}}\n---\n"
    both, first = one.format("blue") + one.format("green"), one.format("blue")
    platform.certctl("certificates", "create", "by-hand.example.com", "--id", "mc-by-hand")
    platform.certctl("apply", "-f", "-", "--label", "colours", stdin=both)
    platform.certctl("apply", "-f", "-", "--label", "others", stdin=one.format("red"))
    platform.certctl("apply", "-f", "-", "--prune", stdin=first, code=ExitCode.USAGE)  # of which set?
    asked = platform.certctl("apply", "-f", "-", "--label", "colours", "--prune", stdin=first, code=ExitCode.USAGE)
    assert "would archive 1 certificate; say --yes" in asked.stderr
    said = platform.certctl("plan", "-f", "-", "--label", "colours", "--prune", stdin=first, code=ExitCode.PENDING)
    assert said.stdout == "- Certificate mc-green\n"
    platform.certctl("apply", "-f", "-", "--label", "colours", "--prune", "--yes", stdin=first)
    left = {row["id"] for row in json.loads(platform.certctl("certificates", "list", "--json", "--all").stdout)["data"]}
    assert {"mc-blue", "mc-red", "mc-by-hand"} <= left
    assert "mc-green" not in left
    assert pending(platform, "plan", "-f", "-", "--label", "colours", "--prune", stdin=first)["pending"] == 0


def test_what_get_writes_is_what_apply_reads(
    platform: Platform, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    platform.certctl("apply", "-f", "-", stdin=SHOP)
    written = platform.certctl("get", "all").stdout
    assert pending(platform, "apply", "-f", "-", stdin=written)["pending"] == 0
    with postgres_server.fresh_database() as dsn, running(tmp_path, dsn) as other:
        file = tmp_path / "set" / "all.yaml"
        file.parent.mkdir()
        file.write_text(written)
        other.certctl("apply", "-f", str(file.parent))
        assert pending(other, "diff", "-f", str(file))["pending"] == 0
        again = other.certctl("get", "all").stdout
    assert sorted(again.split("---\n")) == sorted(written.split("---\n"))
    one = json.loads(platform.certctl("get", "teams", "team-shop", "-o", "json").stdout)
    assert (one[0]["kind"], one[0]["id"]) == ("Team", "team-shop")


@pytest.mark.parametrize(
    "text,said",
    [
        ("- 1", "-:1: is no object"),
        ("kind: Tem\nid: team-x\nspec: {}", "-:1: kind: is one of Team, Owner"),
        ("kind: Team\nspec: {}", "-:1: id: is needed, for instance team-web"),
        ("kind: Team\nid: team-x", "-:1: spec: is needed"),
        ("kind: Team\nid: team-x\nspec: {}\nstatus: {}", "status is not known here"),
        ("kind: Team\nid: team-x\nspec: {nam: x}", "spec.nam: there is no such field; there are name"),
        ("kind: Team\nid: team-x\nspec: {}", "spec.name: is needed"),
        ("kind: Team\nid: team-x\nspec: {name: a}\n---\nkind: Team\nid: team-x\nspec: {name: b}", "-:5: team-x is"),
        ("kind: Issuer\nid: iss-x\nspec: {name: x, config: {certificate_chain: a, key: b}}", "config.key: is a secret"),
        (CIRCLE, "these need each other: iss-"),
        ("", "nothing is declared"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_done(platform: Platform, text: str, said: str) -> None:
    start = "kind: Team\nid: team-never\nspec: {name: Never}\n---\n" if text and "Tem" not in text else ""
    result = platform.certctl("apply", "-f", "-", stdin=text, code=ExitCode.USAGE)
    assert said in result.stderr
    if start:
        platform.certctl("apply", "-f", "-", stdin=start + text, code=ExitCode.USAGE)
        platform.certctl("teams", "get", "team-never", code=ExitCode.NOT_DONE)


def test_what_the_coordinator_refuses_ends_it_and_says_what_is_left(platform: Platform) -> None:
    text = "kind: Owner\nid: o-x\nspec: {name: X, team_id: team-none}\n---\n"
    text += "kind: Policy\nid: pol-x\nspec: {name: x, type: required_owner}\n"
    result = platform.certctl("apply", "-f", "-", stdin=text, code=ExitCode.USAGE)
    assert "o-x: team_id: there is no team-none" in result.stderr
    assert "0 made, 0 changed, 0 archived; 2 left" in result.stderr
