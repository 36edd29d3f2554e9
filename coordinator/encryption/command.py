"""``certctl-coordinator keys``: which encryption keys seal the stored secrets, and how far a change of key has come."""

from __future__ import annotations

import sys

from coordinator.audit.command import database_url
from coordinator.database import driver
from coordinator.database.pool import VARIABLE, Database
from coordinator.encryption import service
from coordinator.settings import Settings
from core.errors import Misconfigured
from core.sealing import Sealer

DONE, UNDER_WAY = 0, 1
_CONNECTIONS = 2


async def run(settings: Settings, sealer: Sealer) -> int:
    """Print what seals what; return 0 when all is under the current key, 1 when not. It may run beside a coordinator.

    Raises ``Misconfigured`` when the database cannot be read.
    """
    async with database_url(settings) as dsn:
        db = await Database.open(dsn, max_connections=_CONNECTIONS)
        try:
            async with db.connection() as conn:
                counts, running = await service.counts(conn), await service.running(conn)
        except (driver.UndefinedTable, driver.NotPermitted) as error:
            message = f"{VARIABLE}: there are no secrets that this role can see ({error})"
            raise Misconfigured(message) from error
        finally:
            await db.close()
    sys.stdout.write(_text(sealer, counts, running))
    others = any(key_id != sealer.current for by_key in counts.values() for key_id in by_key)
    return UNDER_WAY if others else DONE


def _text(sealer: Sealer, counts: dict[str, dict[str, int]], running: dict[str, list[str]]) -> str:
    lines = [f"current key {sealer.current}" + "".join(f", previous key {key}" for key in sealer.key_ids[1:])]
    for table, by_key in counts.items():
        lines += [f"{table}: {number} under {key} ({_named(sealer, key)})" for key, number in by_key.items()]
    lines += [f"coordinator {name} knows {', '.join(keys)}" for name, keys in running.items()]
    if any(sealer.current not in keys for keys in running.values()):
        lines.append("not all coordinators know the current key: start them with both before anything is sealed anew")
    left = sum(number for by_key in counts.values() for key, number in by_key.items() if key != sealer.current)
    lines.append(f"{left} to be sealed anew" if left else "all is under the current key; a previous one may go")
    return "\n".join(lines) + "\n"


def _named(sealer: Sealer, key_id: str) -> str:
    if key_id == sealer.current:
        return "current"
    return "previous" if key_id in sealer.key_ids else "not known here"
