"""Coming back: previous files, previous key, and a daemon that runs with them.

Used after a failed deployment, where the cause can still be told apart by trying again with the old files, and after a
crash, where only the journal is left.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import trio

from agent.deployment import service
from agent.deployment.installation import put_back
from agent.deployment.journal import Journal, JournalFolder
from agent.deployment.prepare import Endpoint, Prepared
from connectors.targets.base import Probe, Runner, ServiceCommands
from core.crash import crash_point
from core.errors import CertctlError, DeadlineExceeded, Refused, Transient

in_thread = trio.to_thread.run_sync


class Undone(msgspec.Struct, frozen=True):
    """How an undo went. ``error`` is why the deployment failed, told more exactly than was known before."""

    undo: Literal["done", "failed"]
    error: CertctlError
    served: str


async def undo_failed(
    prepared: Prepared,
    journal: Journal,
    journals: JournalFolder,
    ports: tuple[Runner, Probe],
    failed: tuple[str, CertctlError],
) -> Undone:
    """Put everything back after the deployment failed in a step with an error; never raises for the host's failures."""
    (runner, probe), (step, error) = ports, failed
    new, endpoint = prepared.item.fingerprint, prepared.endpoint
    was_loaded = step in {"reloaded", "served"}
    try:
        await restore_files(journal, journals)
    except CertctlError as obstacle:
        return Undone("failed", _unfinished(error, obstacle, prepared), await service.served_now(endpoint, probe))
    broken = await _try_check(prepared.commands, runner)
    if step == "checked":
        error = _whose_fault(error, broken)
    problem = (broken or await _try_reload(prepared.commands, runner)) if was_loaded else None
    look = service.served_after_undo if was_loaded and problem is None else _look_once
    served = await look(endpoint, new, probe)
    if problem is not None and step == "reloaded" and served != new:
        # The reload never worked, forth or back: the daemon goes on with what it had loaded before, or does not run.
        problem = None
    if problem is None and served == new:
        problem = Transient("the new certificate is still served")
    if problem is not None:
        return Undone("failed", _unfinished(error, problem, prepared), served)
    await in_thread(journals.delete, journal.target_id)
    return Undone("done", error, served)


async def undo_interrupted(
    journal: Journal, journals: JournalFolder, commands: ServiceCommands, runner: Runner
) -> None:
    """Put everything back after a crash; raises when something stands in the way, and can be repeated."""
    await restore_files(journal, journals)
    await service.check_live(commands, runner)
    await service.reload(commands, runner)
    crash_point("deploy.undo_reloaded")
    await in_thread(journals.delete, journal.target_id)


async def undo_before_retry(
    journal: Journal, journals: JournalFolder, commands: ServiceCommands, runner: Runner
) -> None:
    """Put everything back before a new attempt; raises only when the files cannot be put back.

    A daemon that does not load the old files now is no obstacle: the new attempt checks and reloads it again, and until
    that has worked the journal stays.
    """
    await restore_files(journal, journals)
    if await _try_check(commands, runner) is None and await _try_reload(commands, runner) is None:
        await in_thread(journals.delete, journal.target_id)


async def restore_files(journal: Journal, journals: JournalFolder) -> None:
    """Put the files back and note that, so that a repetition cannot overwrite what an operator did meanwhile."""
    if journal.files_back:
        return
    await in_thread(put_back, journal)
    await in_thread(journals.write, msgspec.structs.replace(journal, files_back=True))
    crash_point("deploy.undo_noted")


async def _try_check(commands: ServiceCommands, runner: Runner) -> CertctlError | None:
    try:
        await service.check_live(commands, runner)
    except CertctlError as error:
        return error
    return None


async def _try_reload(commands: ServiceCommands, runner: Runner) -> CertctlError | None:
    try:
        await service.reload(commands, runner)
    except CertctlError as error:
        return error
    crash_point("deploy.undo_reloaded")
    return None


async def _look_once(endpoint: Endpoint, _unwanted: str, probe: Probe) -> str:
    return await service.served_now(endpoint, probe)


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
    by_hand = f"repair its cause, then run {to_run}; the agent tries again when it starts"
    return type(error)(f"{error.detail} – THE UNDO FAILED: {problem.detail}; {by_hand}")
