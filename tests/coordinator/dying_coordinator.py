"""A coordinator in a process of its own that issues one certificate and dies where CERTCTL_CRASH_POINT says."""

from __future__ import annotations

import asyncio
import os

from tests.coordinator.world import open_world


async def main() -> None:
    """Issue one certificate."""
    async with open_world(dict(os.environ)) as world:
        agent = await world.agent()
        await world.certificate(agent_id=agent.id)
        await agent.issue(await agent.item())


if __name__ == "__main__":
    asyncio.run(main())
