"""What was installed here last, target by target, so that it can be looked at again.

A record is the work item itself: with the key in the keystore and the host's rules it says all that should be found.
Its secrets stay sealed.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog
import trio

from agent.deployment.records import Records
from core.crash import crash_point
from core.errors import CertctlError
from core.wire import DeploymentItem, InstalledState

_log = structlog.get_logger(__name__)
in_thread = trio.to_thread.run_sync


class Installed(msgspec.Struct, frozen=True):
    """One installation. ``told`` is what the coordinator was, or was about to be, told of it last."""

    item: DeploymentItem
    told: InstalledState = "in place"


class Installations:
    """The installations of this host. Changes of one record follow each other."""

    def __init__(self, folder: Path) -> None:
        self._records = Records(folder, Installed, "record of an installation", "delete it; a renewal writes it anew")
        self._lock = trio.Lock()

    async def targets(self) -> list[str]:
        """Return the targets in which something was installed."""
        return await in_thread(self._records.targets)

    async def read(self, target_id: str) -> Installed | None:
        """Return what was installed in a target last."""
        return await in_thread(self._records.read, target_id)

    async def keep(self, item: DeploymentItem) -> None:
        """Remember an installation. A record that cannot be written fails no deployment: it is only not looked at."""
        async with self._lock:
            try:
                await in_thread(self._records.write, item.target_id, Installed(item))
            except CertctlError as error:
                _log.warning("installation_not_recorded", target_id=item.target_id, cause=error.detail)
            else:
                crash_point("drift.recorded")

    async def note(self, installed: Installed, told: InstalledState) -> None:
        """Remember what is told of an installation, unless there is a newer one by now."""
        async with self._lock:
            if await self._is_last(installed):
                await in_thread(self._records.write, installed.item.target_id, Installed(installed.item, told))

    async def forget(self, installed: Installed) -> None:
        """Look at an installation no more, unless there is a newer one by now."""
        async with self._lock:
            if await self._is_last(installed):
                await in_thread(self._records.delete, installed.item.target_id)

    async def _is_last(self, installed: Installed) -> bool:
        last = await self.read(installed.item.target_id)
        return last is not None and last.item == installed.item
