"""Runs commands on this host: argv lists without a shell, a bare environment, a deadline, capped output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress

import trio

from connectors.targets.base import Command, CommandResult
from core.crash import crash_point
from core.errors import DeadlineExceeded, Misconfigured

MAX_OUTPUT = 16 * 1024
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

_GRACE_S = 1.0
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


class HostRunner:
    """The ``Runner`` port on real processes, each in a process group of its own so that its children end with it."""

    async def run(self, command: Command) -> CommandResult:
        """Run to the end; raise ``DeadlineExceeded`` after its timeout, ``Misconfigured`` when it cannot start."""
        process = await _start(command)
        output = bytearray()
        with trio.move_on_after(command.timeout_s) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_collect, process, output)
                try:
                    await process.wait()
                    # A daemon that the command left behind may hold the pipe open for ever.
                    nursery.cancel_scope.deadline = trio.current_time() + _GRACE_S
                finally:
                    await _end(process)
        if scope.cancelled_caught and process.returncode in {None, -signal.SIGKILL}:
            raise DeadlineExceeded(f"`{' '.join(command.argv)}` did not end within {command.timeout_s:g} s")
        crash_point("deploy.command_ended")
        return CommandResult(process.returncode or 0, _KEY.sub("(key removed)", output.decode(errors="replace")))


async def _start(command: Command) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            list(command.argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise Misconfigured(f"{command.argv[0]} cannot be run: {error.strerror}") from error


async def _collect(process: trio.Process, output: bytearray) -> None:
    if process.stdout is None:
        return
    async with process.stdout:
        async for chunk in process.stdout:
            output += chunk[: MAX_OUTPUT - len(output)]


async def _end(process: trio.Process) -> None:
    """Kill what is still running; a finished process is only reaped."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _GRACE_S):
        await process.wait()
