"""docs/policies.md: its requests are sent in their order, its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordinator.policies.rules import RULES
from coordinator.policies.service import scan
from coordinator.profiles.routes import ProfileBody
from coordinator.renewal_policies.routes import RenewalPolicyBody
from tests.coordinator.world import World, done

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")


def first_column(heading: str) -> set[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))


async def test_every_request_of_the_page_is_answered(world: World) -> None:
    requests = re.findall(r"```http\n(\w+) (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(requests) > 8
    for method, path, body in requests:
        headers = {"Content-Type": "application/json"} if body else {}
        request = world.http.build_request(method, path, content=body or None, headers=headers)
        request.headers["Authorization"] = "Bearer admin-key-of-the-tests"
        done(await world.http.send(request))
        while await scan(world.ctx):
            pass
    found = (await world.get("/api/v1/violations", open=True, severity="error"))["data"]
    assert [row["common_name"] for row in found] == ["ada@example.com"]


def test_the_tables_name_every_field_and_type() -> None:
    named = {"name", "description"}
    assert first_column("Profiles") == set(ProfileBody.__struct_fields__) - named
    assert first_column("Renewal policies") == set(RenewalPolicyBody.__struct_fields__) - named
    assert first_column("Rules") == set(RULES)
