"""docs/operations.md: its requests are sent in their order, its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from coordinator.certificates.importing import Outcome as ImportOutcome
from coordinator.operations.routes import Outcome
from coordinator.operations.service import Kind, work
from tests.coordinator.world import KEYS, World, bearer, done

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def first_column(heading: str) -> set[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([\w-]+)` \|", section, flags=re.MULTILINE))


async def test_every_request_of_the_page_is_answered(world: World) -> None:
    agent = await world.agent()
    await world.post("/api/v1/owners", {"id": "o-left", "name": "Left", "team_id": "default"})
    for name in ("www", "api"):
        wish = {"id": f"mc-{name}", "environment": "prod", "target_ids": [await world.target(agent, name)]}
        await world.certificate(common_name=f"{name}.example.com", owner_id="o-left", **wish)
    await agent.work()
    requests = re.findall(r"```http\n(\w+) (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(requests) == 4
    counts = []
    for method, path, body in requests:
        headers = {"Content-Type": "application/json", **bearer(KEYS["admin"])}
        answer = done(await world.http.request(method, path, content=body, headers=headers))
        while await work(world.ctx):
            pass
        if "operation" in answer:
            operation = await world.get(f"/api/v1/operations/{answer['operation']['id']}")
            counts.append((operation["state"], operation["total"], operation["succeeded"]))
    assert counts == [("planned", 1, 0), ("completed", 2, 2), ("completed", 2, 2)]


def test_the_tables_name_every_kind_and_outcome() -> None:
    known = {f"bulk-{kind}" for kind in get_args(Kind)} | set(get_args(Outcome)) - {"waiting"}
    assert first_column("Operations") == known
    assert first_column("Import") == set(get_args(ImportOutcome))
