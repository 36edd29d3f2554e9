"""Looks again, now and then, at what was installed here, and tells the coordinator what is not as it should be.

At the start and at an interval, spread so that a fleet does not look as one. What is as it should be is told only after
something else was. Whether anything is done about it is the coordinator's to say: it sends a deployment.
"""

from __future__ import annotations

import random

import structlog
import trio

from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.deployment.deployer import Deployer
from agent.deployment.installed import Installed
from agent.keystore import Keystore
from core.crash import crash_point
from core.errors import CertctlError
from core.wire import MOST_FINDINGS, Finding, Findings

log = structlog.get_logger(__name__)
_SPREAD = 0.1
_SIDE_BY_SIDE = 4

in_thread = trio.to_thread.run_sync
Found = tuple[Installed, Finding]


class DriftWatch:
    """Looks at all installations, each time at a moment within a tenth of ``interval_s``."""

    def __init__(self, deployer: Deployer, keystore: Keystore, client: Coordinator, interval_s: float) -> None:
        self._deployer, self._keystore, self._client = deployer, keystore, client
        self._interval_s = interval_s

    async def run(self) -> None:
        """Look now and for ever after."""
        while True:
            await self.look()
            await trio.sleep(self._interval_s * random.uniform(1 - _SPREAD, 1 + _SPREAD))  # noqa: S311 - spreads a fleet

    async def look(self) -> None:
        """Look at everything once, and tell."""
        found: list[Found] = []
        slots = trio.CapacityLimiter(_SIDE_BY_SIDE)

        async def look_at(target_id: str) -> None:
            async with slots:
                if (one := await self._inspect(target_id)) is not None:
                    found.append(one)

        try:
            targets = await self._deployer.installations.targets()
            async with trio.open_nursery() as nursery:
                for target_id in targets:
                    nursery.start_soon(look_at, target_id)
            for start in range(0, len(found), MOST_FINDINGS):
                await self._tell(found[start : start + MOST_FINDINGS])
        except CertctlError as error:
            log.warning("drift_not_told", cause=error.detail)

    async def _inspect(self, target_id: str) -> Found | None:
        """Return what there is to tell of a target."""
        try:
            installed = await self._deployer.installations.read(target_id)
            if installed is None:
                return None
            item = installed.item
            key = await in_thread(self._keystore.key, item.certificate_id, item.spki_sha256)
            finding = await self._deployer.inspect(installed, key)
        except CertctlError as error:
            log.warning("installation_not_looked_at", target_id=target_id, cause=error.detail)
            return None
        if finding is None or finding.state == installed.told == "in place":
            return None
        return installed, finding

    async def _tell(self, found: list[Found]) -> None:
        """Report. Of each difference is noted before, of its end after, that it was told: so the end always is."""
        installations = self._deployer.installations
        for installed, finding in found:
            if finding.state == "in place":
                log.info("drift_ended", target_id=finding.target_id)
            elif finding.state != installed.told:
                log.warning("drift", target_id=finding.target_id, state=finding.state, cause=finding.cause)
                await installations.note(installed, finding.state)
        findings = Findings(tuple(finding for _, finding in found))
        answer = await until_answered("report drift", lambda: self._client.report_findings(findings))
        crash_point("drift.told")
        for installed, finding in found:
            if finding.target_id in answer.unwanted:
                await installations.forget(installed)
            elif finding.state == "in place":
                await installations.note(installed, "in place")
