"""A coordinator in a process of its own that works off operations and dies where CERTCTL_CRASH_POINT says."""

from __future__ import annotations

import asyncio
import os

from coordinator.operations import service as operations
from tests.coordinator.world import open_world


async def main() -> None:
    """Work until nothing is left."""
    async with open_world(dict(os.environ)) as world:
        while await operations.work(world.ctx):
            pass


if __name__ == "__main__":
    asyncio.run(main())
