"""Coming back: previous files, previous keys, and a daemon that runs with them.

Used after a failed try, where the cause can still be told apart by trying again with the old files, and after a crash,
where only the journals are left. Files are put back one target after the other; the daemon of a service checks and
loads them once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import structlog
import trio

from agent.deployment import service
from agent.deployment.installation import put_back
from agent.deployment.journal import Journal, JournalFolder
from agent.deployment.member import Member, Tools, doing
from agent.deployment.prepare import Endpoint, Prepared
from connectors.targets.base import Probe, Role, Runner, ServiceCommands
from core.crash import crash_point
from core.errors import CertctlError, DeadlineExceeded, Refused, Transient

_log = structlog.get_logger(__name__)
_LOADED = {"reloaded", "served"}
"""Steps after which the daemon may run with the new files."""

in_thread = trio.to_thread.run_sync


class Back(msgspec.Struct, frozen=True):
    """How the daemon likes the previous files, after a try failed in ``step``: None, or why it does not take them."""

    step: str
    check: CertctlError | None
    reload: CertctlError | None

    @property
    def works(self) -> bool:
        """Say whether the daemon takes the previous files, so that the new ones were at fault."""
        return self.check is None and self.reload is None

    @property
    def problem(self) -> CertctlError | None:
        """Return what keeps the daemon from running as before; it had nothing new to forget before a reload."""
        return (self.check or self.reload) if self.step in _LOADED else None


async def bring_back(members: Sequence[Member], step: str, tools: Tools) -> Back:
    """Put the files of all members back and let their daemon take them; never raises for the host's failures."""
    commands = members[0].prepared.commands
    with doing(members, "undone"):
        for member in members:
            await _restore(member, tools.journals)
        # A daemon that watches its files has the previous ones by now, whatever a check says.
        check = None if commands.watches else await _try_check(commands, tools.runner)
        loaded = step in _LOADED and check is None
        published = [member.published for member in members]
        reload = await _try_reload(commands, published, tools.runner) if loaded else None
        return Back(step, check, reload)


async def conclude(member: Member, back: Back, tools: Tools) -> None:
    """Give a member that was brought back the outcome of its failure."""
    error, journal = member.error, member.installation.journal
    assert error is not None, "a member that failed has an error"  # noqa: S101
    if back.step == "checked":
        error = _whose_fault(error, back.check)
    served = await _seen_after(member, back, tools.probe)
    if back.step == "reloaded" and not served:
        error = service.with_hint(error, member.prepared.endpoint)
    if journal is None:
        member.outcome = member.progress.failed(error, step=back.step, served=served)
        return
    problem = _problem(member, back, served)
    if problem is not None:
        error = _unfinished(error, problem, member.prepared)
        _log.error("undo_failed", target_id=member.target_id, cause=error.detail)
    else:
        await in_thread(tools.journals.delete, journal.target_id)
    undo: Literal["done", "failed"] = "done" if problem is None else "failed"
    member.outcome = member.progress.failed(error, step=back.step, undo=undo, served=served)


async def undo_interrupted(
    journals: Sequence[Journal], folder: JournalFolder, commands: ServiceCommands, runner: Runner
) -> dict[str, CertctlError]:
    """Put everything of one service back after a crash; return what stands in the way, by target. Can be repeated."""
    restored, obstacles = await _restore_all(journals, folder)
    if restored and not commands.watches:
        try:
            await service.check_live(commands, runner)
            await service.reload(commands, [journal.paths for journal in restored], runner)
        except CertctlError as error:
            return obstacles | {journal.target_id: error for journal in restored}
        crash_point("deploy.undo_reloaded")
    for journal in restored:
        await in_thread(folder.delete, journal.target_id)
    return obstacles


async def undo_before_retry(
    journals: Sequence[Journal], folder: JournalFolder, commands: ServiceCommands, runner: Runner
) -> dict[str, CertctlError]:
    """Put everything back before a new try; return which files could not be put back, by target.

    A daemon that does not load the old files now is no obstacle: the new try checks and reloads it again, and until
    that has worked the journals stay.
    """
    restored, obstacles = await _restore_all(journals, folder)
    loaded = commands.watches
    if restored and not loaded and await _try_check(commands, runner) is None:
        loaded = await _try_reload(commands, [journal.paths for journal in restored], runner) is None
    if loaded:
        for journal in restored:
            await in_thread(folder.delete, journal.target_id)
    return obstacles


async def _restore(member: Member, folder: JournalFolder) -> None:
    installation = member.installation
    if installation.journal is None:
        return
    try:
        installation.journal = await _restore_files(installation.journal, folder)
    except CertctlError as obstacle:
        member.obstacle = obstacle


async def _restore_all(
    journals: Sequence[Journal], folder: JournalFolder
) -> tuple[list[Journal], dict[str, CertctlError]]:
    restored, obstacles = [], dict[str, CertctlError]()
    for journal in journals:
        try:
            restored.append(await _restore_files(journal, folder))
        except CertctlError as error:
            obstacles[journal.target_id] = error
    return restored, obstacles


async def _restore_files(journal: Journal, folder: JournalFolder) -> Journal:
    """Put the files back and note that, so that a repetition cannot overwrite what an operator did meanwhile."""
    if journal.files_back:
        return journal
    await in_thread(put_back, journal)
    noted = msgspec.structs.replace(journal, files_back=True)
    await in_thread(folder.write, noted)
    crash_point("deploy.undo_noted")
    return noted


async def _try_check(commands: ServiceCommands, runner: Runner) -> CertctlError | None:
    try:
        await service.check_live(commands, runner)
    except CertctlError as error:
        return error
    return None


async def _try_reload(
    commands: ServiceCommands, published: Sequence[Mapping[Role, Path]], runner: Runner
) -> CertctlError | None:
    try:
        await service.reload(commands, published, runner)
    except CertctlError as error:
        return error
    crash_point("deploy.undo_reloaded")
    return None


async def _seen_after(member: Member, back: Back, probe: Probe) -> str:
    endpoint: Endpoint = member.prepared.endpoint
    if member.obstacle is None and back.step in _LOADED and back.problem is None:
        return await service.served_after_undo(endpoint, member.fingerprint, probe)
    return await service.served_now(endpoint, probe)


def _problem(member: Member, back: Back, served: str) -> CertctlError | None:
    if member.obstacle is not None:
        return member.obstacle
    if served == member.fingerprint:
        return back.problem or Transient("the new certificate is still served")
    # A reload that never worked, forth or back: the daemon goes on with what it had loaded before, or does not run.
    return None if back.step == "reloaded" else back.problem


def _whose_fault(error: CertctlError, broken: CertctlError | None) -> CertctlError:
    if isinstance(error, DeadlineExceeded):
        return error
    if broken is None:
        return Refused(f"{error.detail} – with the previous files it passes, so it does not take the new ones")
    return Transient(f"{error.detail} – it fails with the previous files as well, so its cause lies elsewhere")


def _unfinished(error: CertctlError, problem: CertctlError, prepared: Prepared) -> CertctlError:
    """Say plainly that a person is needed; the kind of the first error decides whether trying again may help."""
    commands = [command for command in (prepared.commands.check, prepared.commands.reload) if command is not None]
    to_run = " and ".join(f"`{' '.join(command.argv)}`" for command in commands)
    then = "" if prepared.commands.reload is None else f", then run {to_run}"
    by_hand = f"repair its cause{then}; the agent tries again when it starts"
    return type(error)(f"{error.detail} – THE UNDO FAILED: {problem.detail}; {by_hand}")
