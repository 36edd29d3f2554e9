"""Many deployments of one service, committed together: one trial, one check, one reload, and everybody is looked at.

look → stage → validate → journal → publish → check → reload → see it served, or undo. What cannot be loaded together is
brought back and tried again in halves, so that one bad certificate holds nobody back. A group of one is the ordinary
case. What fails on the host becomes the outcome of a member; only defects of certctl itself are raised, and they leave
the journals behind for the repair.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import structlog
import trio

from agent.deployment import service
from agent.deployment.member import Member, Tools, doing
from agent.deployment.undo import Back, bring_back, conclude, undo_before_retry
from connectors.targets.base import ServiceCommands
from core.crash import crash_point
from core.errors import CertctlError, Refused, Transient

_log = structlog.get_logger(__name__)
_SIDE_BY_SIDE = 8
"""How many members write their files, or are looked at, at a time."""

in_thread = trio.to_thread.run_sync

Verdict = Literal["ended", "refused", "unseen"]
"""``ended``: each member has its outcome. ``refused``: the daemon takes the previous files, but not these. ``unseen``:
it loaded these and none is served. After the latter two all are brought back and wait for another try or their end."""


class Group:
    """Members of one service with equal commands and different files; the caller holds the service's lock."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self, members: Sequence[Member]) -> None:
        """Bring every member to its outcome."""
        looked = await self._look(await self._put_back_leftovers(members))
        fresh = [member for member in looked if not _complete(member)]
        tried = await self._try_staged(await self._each(fresh, _stage, "staged"))
        unloaded = await self._not_yet_served([member for member in looked if _complete(member)])
        await self._commit_or_halve([*unloaded, *tried])

    async def _put_back_leftovers(self, members: Sequence[Member]) -> list[Member]:
        """Finish the undo of interrupted attempts."""
        tools, journals = self._tools, []
        with doing(members, "repaired", record=False):
            for member in members:
                try:
                    journals.append(await in_thread(tools.journals.read, member.target_id))
                except CertctlError as error:
                    await self._drop(member, error)
            left = [journal for journal in journals if journal is not None]
            obstacles = await undo_before_retry(left, tools.journals, members[0].prepared.commands, tools.runner)
        for member in members:
            if obstacle := obstacles.get(member.target_id):
                await self._drop(member, obstacle)
        return [member for member in members if member.outcome is None]

    async def _look(self, members: Sequence[Member]) -> list[Member]:
        return await self._each(members, _look, "looked", record=False)

    async def _not_yet_served(self, members: Sequence[Member]) -> list[Member]:
        """Of those whose files are in place, end the ones that are served; the daemon has to load the others."""
        unloaded = []

        async def look(member: Member) -> None:
            with member.progress.doing("served", record=False):
                served = await service.is_served(member.prepared.endpoint, member.fingerprint, self._tools.probe)
            if served:
                member.outcome = member.progress.ended("unchanged", member.fingerprint)
            else:
                unloaded.append(member)

        await _side_by_side(members, look)
        return unloaded

    async def _try_staged(self, members: Sequence[Member]) -> list[Member]:
        """Let the daemon's program try the staged files; what it refuses is found by halves and dropped."""
        if not members:
            return []
        try:
            with doing(members, "validated"):
                staged = [member.installation.staged() for member in members]
                tried = await service.try_staged(members[0].prepared, staged, self._tools.scratch, self._tools.runner)
        except CertctlError as error:
            if len(members) > 1 and isinstance(error, Refused):
                first, second = _halves(members)
                return [*await self._try_staged(first), *await self._try_staged(second)]
            for member in members:
                await self._drop(member, error)
            return []
        if not tried:
            for member in members:
                member.progress.steps.pop()
        crash_point("deploy.validated")
        return list(members)

    async def _commit_or_halve(self, members: Sequence[Member]) -> None:
        if members:
            verdict = await self._commit(members)
            if verdict != "ended":
                await self._halve(members)

    async def _halve(self, members: Sequence[Member]) -> None:
        """Try the halves of a group that was brought back.

        Half that was refused is halved again. Of those that were loaded and not seen, only one half can hold the one
        certificate that keeps the daemon from taking the rest: when both fail, the cause is none of them.
        """
        verdicts = []
        for half in _halves(members):
            again = await self._begin_again([member for member in half if member.outcome is None])
            verdicts.append((again, await self._commit(again) if again else "ended"))
        for half, verdict in verdicts:
            unseen_twice = verdict == "unseen" and all(other == "unseen" for _, other in verdicts)
            if unseen_twice:
                await _side_by_side(half, lambda member: conclude(member, Back("served", None, None), self._tools))
            elif verdict != "ended":
                await self._halve(half)

    async def _begin_again(self, members: Sequence[Member]) -> list[Member]:
        for member in members:
            if member.installation.journal is not None:
                await in_thread(self._tools.journals.delete, member.target_id)
            member.begin()
        looked = await self._look(members)
        staged = await self._each([member for member in looked if not _complete(member)], _stage, "staged")
        return [member for member in looked if member in staged or _complete(member)]

    async def _commit(self, members: Sequence[Member]) -> Verdict:
        """Publish, check, load and look; nothing stays changed of what did not end well."""
        commands = members[0].prepared.commands
        if commands.watches:
            members = await self._check_first(members, commands)
        members = await self._publish(members)
        if not members:
            return "ended"
        try:
            if not commands.watches:
                await self._check(members, commands)
            with doing(members, "reloaded", record=not commands.watches):
                await service.reload(commands, [member.published for member in members], self._tools.runner)
            crash_point("deploy.reloaded")
        except CertctlError as error:
            return await self._not_taken(members, error)
        unseen = await self._see(members)
        return await self._not_seen(unseen, alone=len(unseen) == len(members)) if unseen else "ended"

    async def _check(self, members: Sequence[Member], commands: ServiceCommands) -> None:
        with doing(members, "checked", record=commands.check is not None):
            await service.check_live(commands, self._tools.runner)
        crash_point("deploy.checked")

    async def _check_first(self, members: Sequence[Member], commands: ServiceCommands) -> Sequence[Member]:
        """Check a daemon that takes what is published at once; return nobody when something else is broken."""
        try:
            await self._check(members, commands)
        except CertctlError as error:
            for member in members:
                await self._drop(member, error)
            return []
        return members

    async def _publish(self, members: Sequence[Member]) -> list[Member]:
        changed = [member for member in members if not _complete(member)]
        published = await self._each(changed, _publish, "published")
        return [member for member in members if member in published or _complete(member)]

    async def _not_taken(self, members: Sequence[Member], error: CertctlError) -> Verdict:
        step = members[0].progress.current
        if step == "reloaded":
            members = await self._leave_for_the_start(members, error)
        for member in members:
            member.error = error
        if not members:
            return "ended"
        back = await bring_back(members, step, self._tools)
        if len(members) > 1 and back.works:
            await self._conclude([member for member in members if member.obstacle], back)
            return "refused"
        return await self._conclude(members, back)

    async def _not_seen(self, members: Sequence[Member], *, alone: bool) -> Verdict:
        if members[0].prepared.commands.watches and members[0].error is not None:
            members = await self._leave_for_the_start(members, members[0].error)
            if not members:
                return "ended"
        back = await bring_back(members, "served", self._tools)
        if alone and len(members) > 1 and back.works and not any(member.obstacle for member in members):
            return "unseen"
        return await self._conclude(members, back)

    async def _conclude(self, members: Sequence[Member], back: Back) -> Verdict:
        await _side_by_side(members, lambda member: conclude(member, back, self._tools))
        return "ended"

    async def _see(self, members: Sequence[Member]) -> list[Member]:
        """Wait until each member is served and settle it; return those that are not, with their errors."""
        unseen = []

        async def see(member: Member) -> None:
            try:
                with member.progress.doing("served"):
                    endpoint = member.prepared.endpoint
                    member.progress.detail = await service.wait_until_served(
                        endpoint, member.fingerprint, self._tools.probe
                    )
                crash_point("deploy.served")
                if member.installation.journal is not None:
                    await in_thread(member.installation.settle)
            except CertctlError as error:
                member.error = error
                unseen.append(member)
            else:
                await _prune(member)
                member.outcome = member.progress.ended("served", member.fingerprint)

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(see, member)
        return unseen

    async def _leave_for_the_start(self, members: Sequence[Member], error: CertctlError) -> list[Member]:
        """Leave the first files of a server that does not run yet, since it may need them to start at all."""
        first = [member for member in members if member.is_first]
        for member in members if first else ():
            if await service.served_now(member.prepared.endpoint, self._tools.probe):
                return list(members)
        for member in first:
            await in_thread(member.installation.settle)
            hint = service.with_hint(error, member.prepared.endpoint).detail
            told = Transient(f"{hint} The files are in place: start it, and the next attempt sees them served")
            member.outcome = member.progress.failed(told)
        return [member for member in members if member not in first]

    async def _each(
        self, members: Sequence[Member], work: Callable[[Member], None], step: str, *, record: bool = True
    ) -> list[Member]:
        """Let each member do something to its own files; return those that could."""
        failed: dict[Member, CertctlError] = {}

        async def do(member: Member) -> None:
            try:
                with member.progress.doing(step, record=record):
                    await in_thread(work, member)
            except CertctlError as error:
                failed[member] = error

        await _side_by_side(members, do)
        # One after the other: they may remove a folder that they share.
        for member, error in failed.items():
            await self._drop(member, error)
        return [member for member in members if member not in failed]

    async def _drop(self, member: Member, error: CertctlError) -> None:
        """End a member that alone has failed, before the daemon has seen anything of it."""
        member.error = error
        if member.installation.journal is not None:
            await conclude(member, await bring_back([member], member.progress.current, self._tools), self._tools)
            return
        try:
            await in_thread(member.installation.discard)
        except CertctlError as leftover:
            _log.warning("staged_files_left", target_id=member.target_id, cause=leftover.detail)
        served = await service.served_now(member.prepared.endpoint, self._tools.probe)
        member.outcome = member.progress.failed(error, served=served)


def _complete(member: Member) -> bool:
    return member.snapshot is not None and member.snapshot.complete


def _look(member: Member) -> None:
    member.snapshot = member.installation.look()


def _stage(member: Member) -> None:
    if member.snapshot is not None:
        member.installation.stage(member.snapshot)


def _publish(member: Member) -> None:
    if member.snapshot is not None:
        member.installation.publish(member.snapshot)


async def _prune(member: Member) -> None:
    try:
        if member.installation.journal is not None:
            await in_thread(member.installation.prune)
    except CertctlError as error:
        _log.warning("old_versions_left", target_id=member.target_id, cause=error.detail)


def _halves(members: Sequence[Member]) -> tuple[Sequence[Member], Sequence[Member]]:
    middle = (len(members) + 1) // 2
    return members[:middle], members[middle:]


async def _side_by_side(members: Sequence[Member], work: Callable[[Member], Awaitable[None]]) -> None:
    slots = trio.CapacityLimiter(_SIDE_BY_SIDE)

    async def do(member: Member) -> None:
        async with slots:
            await work(member)

    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(do, member)
