"""docs/api.md: its requests are answered in their order, its table of problems is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordinator.web import problems
from core.problems import STATUS
from tests.coordinator.world import KEYS, World, bearer

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.anyio
async def test_every_request_of_the_page_is_answered(world: World) -> None:
    requests = re.findall(r"```http\n(\w+) (\S+)(?: as (\w+))?\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(requests) == 7
    for method, path, role, body in requests:
        headers = {} if role == "nobody" else bearer(KEYS[role or "admin"])
        headers |= {"Content-Type": "application/json"} if body else {}
        response = await world.http.request(method, path, content=body or None, headers=headers)
        assert response.is_success, f"{method} {path}: {response.text}"


def test_the_table_of_problems_is_whole() -> None:
    written = set(re.findall(r"^\| (\d{3}) \| `(\S+)` \|", PAGE, flags=re.MULTILINE))
    expected = {(str(status), problems.type_of(kind)) for kind, status in STATUS.items()}
    assert written == expected | {("409", "urn:certctl:problem:stale-lease")}
