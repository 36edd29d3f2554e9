"""A process that owns an embedded PostgreSQL: prints its DSN, then waits for a line; ``owner.py DATA_DIR``."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from coordinator.database.embedded import EmbeddedPostgres
from core.errors import CertctlError


async def main(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    try:
        print(await server.start(), flush=True)  # noqa: T201 - the test reads it
    except CertctlError as error:
        print(f"{type(error).__name__}: {error}", flush=True)  # noqa: T201 - the test reads it
        return
    await asyncio.to_thread(sys.stdin.readline)
    await server.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(main(Path(sys.argv[1])))
