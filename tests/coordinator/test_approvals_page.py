"""docs/approvals.md: its requests are sent in their order. docs/notifications.md names every type and channel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from coordinator.notifications.channels import CHANNELS
from coordinator.notifications.routes import Type
from tests.coordinator.world import KEYS, World, bearer, csr_for, done

pytestmark = pytest.mark.anyio
DOCS = Path(__file__).parents[2] / "docs"


async def test_every_request_of_the_page_is_answered(world: World) -> None:
    page = (DOCS / "approvals.md").read_text(encoding="utf-8")
    requests = re.findall(r"```http\n(\w+) (\S+)(?: as (\w+))?\n(.*?)```", page, flags=re.DOTALL)
    agent, states = await world.agent(), []
    for method, path, role, body in requests:
        if "{id}" in path:
            await world.certificate(agent_id=agent.id)
            item = await agent.item()
            assert done(await agent.submit(item, csr_for(item)))["state"] == "pending"
            (pending,) = (await world.get("/api/v1/approvals", state="pending"))["data"]
            path = path.replace("{id}", pending["id"])  # noqa: PLW2901
        headers = {**bearer(KEYS[role or "admin"]), **({"Content-Type": "application/json"} if body else {})}
        answer = done(await world.http.request(method, path, content=body or None, headers=headers))
        states.append(answer.get("state"))
    assert states == [None, None, "approved", "rejected"]


def test_the_page_names_every_type_and_channel() -> None:
    page = (DOCS / "notifications.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == {*get_args(Type), *CHANNELS}
