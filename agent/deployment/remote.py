"""Delivers certificates to remote places: a Secret of a cluster, for instance.

look → stage → journal → publish → check → reload, where the place has one → see it served, or put back. What stood
there is kept in a private file until the delivery has proved itself, so that a crash is undone at the next start. Where
a target names no probe nobody looks at what is served: such a delivery ends as ``stored``, never as ``served``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.deployment import service
from agent.deployment.material import read_material
from agent.deployment.outcome import DeploymentOutcome, Progress
from agent.deployment.prepare import Endpoint, check_target, endpoint_of, opened
from agent.deployment.records import Records
from agent.policy import HostPolicy
from connectors.targets import registry
from connectors.targets.base import (
    Delivery,
    Probe,
    ReloadedPlace,
    RemotePlace,
    RemoteTarget,
    RemoteTargetConfig,
    Service,
)
from core.crash import crash_point
from core.errors import CertctlError, Misconfigured
from core.secret import Secret
from core.wire import DeploymentItem

_log = structlog.get_logger(__name__)
_LOADED = {"reloaded", "served"}
"""Steps after which the new certificate may be in use."""
_READS = "what serves this name read the certificate from there"

in_thread = trio.to_thread.run_sync


class PreparedDelivery(msgspec.Struct, frozen=True):
    """Everything that is known before the place is reached."""

    item: DeploymentItem
    connector: RemoteTarget
    config: RemoteTargetConfig
    service: Service
    delivery: Delivery
    endpoint: Endpoint | None

    @property
    def place(self) -> tuple[str, str, str]:
        """Return what deliveries have in common that wait for each other."""
        return self.item.target_type, self.service.name, self.connector.place(self.config)


class RemoteJournal(msgspec.Struct, frozen=True):
    """How to undo one delivery: the work item, whose secrets stay sealed, and what stood there."""

    item: DeploymentItem
    before: bytes


def prepare_delivery(
    item: DeploymentItem, private_key_pem: Secret[bytes], policy: HostPolicy, sealing_key: X25519PrivateKey | None
) -> PreparedDelivery:
    """Check the item against itself, its connector and the host's policy; raise a ``Permanent`` error otherwise."""
    connector, config, facts = _known(item, policy, sealing_key)
    delivery = Delivery(item.certificate_id, read_material(item, private_key_pem))
    endpoint = endpoint_of(config.probe, item) if config.probe else None
    return PreparedDelivery(item, connector, config, facts, delivery, endpoint)


def _known(
    item: DeploymentItem, policy: HostPolicy, sealing_key: X25519PrivateKey | None
) -> tuple[RemoteTarget, Any, Service]:
    check_target(item, policy)
    connector = registry.find(item.target_type)
    if not isinstance(connector, RemoteTarget):
        raise Misconfigured(f"targets of type {item.target_type!r} are files of this host")
    config = registry.decode_config(item.target_type, opened(item, sealing_key))
    return connector, config, policy.service(item.target_type, config.service)


class Remote:
    """Makes one delivery at a time to one place; the caller sees to that."""

    def __init__(self, folder: Path, probe: Probe) -> None:
        remedy = "look at the target, then delete it"
        self.journals = Records(folder, RemoteJournal, "undo journal", remedy)
        self._probe = probe

    async def deliver(self, prepared: PreparedDelivery, progress: Progress) -> DeploymentOutcome:
        """Deliver, and prove it as far as the target allows; what fails becomes the outcome."""
        try:
            async with prepared.connector.reach(prepared.service, prepared.config) as place:
                return await self._deliver(place, prepared, progress)
        except CertctlError as error:
            return progress.failed(error, served=await self._served_now(prepared))

    async def _deliver(self, place: RemotePlace, prepared: PreparedDelivery, progress: Progress) -> DeploymentOutcome:
        """Do it; what is raised was raised before anything was changed."""
        with progress.doing("repaired", record=False):
            if (left := await in_thread(self.journals.read, prepared.item.target_id)) is not None:
                await self._put_back(place, left)
        with progress.doing("looked", record=False):
            before = await place.look(prepared.delivery)
        if place.complete:
            return await self._in_place_already(place, prepared, progress)
        with progress.doing("staged"):
            await place.stage()
        journal = RemoteJournal(prepared.item, before.reveal())
        await in_thread(self.journals.write, journal.item.target_id, journal)
        crash_point("deploy.journaled")
        try:
            await self._publish(place, prepared, progress)
        except CertctlError as error:
            return await self._undo(place, journal, prepared, progress, error)
        await self._settle(place, prepared.item.target_id)
        return _ended(prepared, progress)

    async def repair(self, target_id: str, policy: HostPolicy, sealing_key: X25519PrivateKey | None) -> str:
        """Undo what an interrupted run left of one target; return what was left alone, and why."""
        journal = await in_thread(self.journals.read, target_id)
        if journal is None:
            return ""
        connector, config, facts = _known(journal.item, policy, sealing_key)
        async with connector.reach(facts, config) as place:
            return await self._put_back(place, journal)

    async def _publish(self, place: RemotePlace, prepared: PreparedDelivery, progress: Progress) -> None:
        with progress.doing("published"):
            await place.publish()
        crash_point("deploy.published")
        with progress.doing("checked"):
            await place.check()
        crash_point("deploy.checked")
        if isinstance(place, ReloadedPlace):
            with progress.doing("reloaded"):
                await place.reload()
            crash_point("deploy.reloaded")
        if prepared.endpoint is not None:
            with progress.doing("served"):
                progress.detail = await service.wait_until_served(
                    prepared.endpoint, prepared.item.fingerprint, self._probe, _READS
                )
        crash_point("deploy.served")

    async def _in_place_already(
        self, place: RemotePlace, prepared: PreparedDelivery, progress: Progress
    ) -> DeploymentOutcome:
        """Whoever serves it may not have read it yet; there is nothing to undo."""
        if prepared.endpoint is None:
            return _ended(prepared, progress)
        fingerprint = prepared.item.fingerprint
        if await service.is_served(prepared.endpoint, fingerprint, self._probe):
            return progress.ended("unchanged", fingerprint)
        if isinstance(place, ReloadedPlace):
            with progress.doing("reloaded"):
                await place.reload()
        with progress.doing("served"):
            progress.detail = await service.wait_until_served(prepared.endpoint, fingerprint, self._probe, _READS)
        return _ended(prepared, progress)

    async def _undo(
        self,
        place: RemotePlace,
        journal: RemoteJournal,
        prepared: PreparedDelivery,
        progress: Progress,
        error: CertctlError,
    ) -> DeploymentOutcome:
        undo: Literal["not_needed", "done", "failed"] = "done"
        step, told = progress.current, error.detail
        try:
            with progress.doing("undone"):
                left_alone = await self._put_back(place, journal, step)
            if left_alone:
                undo, told = "not_needed", f"{told} – {left_alone}"
        except CertctlError as obstacle:
            undo = "failed"
            told += f" – THE UNDO FAILED: {obstacle.detail}; the agent tries again when it starts"
            _log.error("undo_failed", target_id=prepared.item.target_id, cause=obstacle.detail)
        served = await self._served_after(prepared, step)
        return progress.failed(type(error)(told), step=step, undo=undo, served=served)

    async def _put_back(self, place: RemotePlace, journal: RemoteJournal, step: str = "served") -> str:
        left_alone = await place.put_back(Secret(journal.before))
        if isinstance(place, ReloadedPlace) and step in _LOADED:
            try:
                await place.reload()
            except CertctlError:
                # A reload that never worked, forth or back: what serves goes on with what it had before.
                if step != "reloaded":
                    raise
        crash_point("deploy.undo_noted")
        await in_thread(self.journals.delete, journal.item.target_id)
        return left_alone

    async def _settle(self, place: RemotePlace, target_id: str) -> None:
        await in_thread(self.journals.delete, target_id)
        try:
            await place.settle()
        except CertctlError as error:
            _log.warning("old_versions_left", target_id=target_id, cause=error.detail)

    async def _served_now(self, prepared: PreparedDelivery) -> str:
        return await service.served_now(prepared.endpoint, self._probe) if prepared.endpoint else ""

    async def _served_after(self, prepared: PreparedDelivery, step: str) -> str:
        if prepared.endpoint is None or step not in _LOADED:
            return await self._served_now(prepared)
        return await service.served_after_undo(prepared.endpoint, prepared.item.fingerprint, self._probe)


def _ended(prepared: PreparedDelivery, progress: Progress) -> DeploymentOutcome:
    if prepared.endpoint is None:
        return progress.ended("stored", "")
    return progress.ended("served", prepared.item.fingerprint)
