"""Servers that run beside a test, under either event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio


@asynccontextmanager
async def beside(*servers: Callable[[], Coroutine[Any, Any, object]]) -> AsyncIterator[None]:
    """Run them meanwhile; an error of the test's comes out as it is, and not in a group."""
    failed: Exception | None = None
    async with anyio.create_task_group() as group:
        for server in servers:
            group.start_soon(server)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed
