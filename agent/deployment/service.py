"""One daemon on this host, as the engine acts on it: try staged files, check the live configuration, reload, look.

No undo is decided here; every function either succeeds or says why not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import trio

from agent.deployment.files import explained
from agent.deployment.prepare import Endpoint, Prepared
from connectors.probes.tls import Observation
from connectors.targets.base import Command, Probe, Role, Runner, ServiceCommands, StagedCheck
from core.errors import CertctlError, DeadlineExceeded, Refused, Transient

SIGHTINGS = 3
"""Fresh connections in a row that must show the new certificate: right after a reload, old workers may still accept."""

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25
_MAX_OUTPUT = 600


async def try_staged(prepared: Prepared, staged: Mapping[Role, Path], scratch_root: Path, runner: Runner) -> None:
    """Let the daemon's own program load the staged files; raise ``Refused`` with its words when it does not."""
    with _scratch_folder(scratch_root) as scratch:
        check = await prepared.connector.staged_check(prepared.service, staged, scratch, runner)
        if check is None:
            return
        _write_trial(scratch, check)
        result = await runner.run(check.command)
    if result.returncode != 0:
        raise Refused(f"{prepared.service.name} cannot load the new files: {_said(result.output)}")


async def check_live(commands: ServiceCommands, runner: Runner) -> None:
    """Check the live configuration; raise ``Transient``, since whoever broke it will repair it."""
    await _run(commands.check, runner, "the live configuration does not pass its check")


async def reload(commands: ServiceCommands, runner: Runner) -> None:
    """Make the daemon load its files again; raise ``Transient`` when it does not."""
    await _run(commands.reload, runner, "the reload failed")


async def wait_until_served(endpoint: Endpoint, fingerprint: str, probe: Probe) -> None:
    """Return when ``SIGHTINGS`` fresh connections in a row showed ``fingerprint``; raise ``DeadlineExceeded``."""
    started = trio.current_time()
    pause, in_a_row, seen = _FIRST_PAUSE_S, 0, ""
    while (left := endpoint.timeout_s - (trio.current_time() - started)) > 0:
        try:
            observation = await _look(endpoint, probe, left)
        except Transient as error:
            in_a_row, seen = 0, error.detail
        else:
            in_a_row = in_a_row + 1 if observation.fingerprint == fingerprint else 0
            seen = f"{endpoint} serves the certificate {observation.fingerprint}"
        if in_a_row == SIGHTINGS:
            return
        if in_a_row == 0:
            await trio.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_S)
    remedy = "does the server block for this name use the target's paths, and is the probe's port right?"
    raise DeadlineExceeded(
        f"the certificate {fingerprint} was not served within {endpoint.timeout_s:g} s: {seen}; {remedy}"
    )


async def served_now(endpoint: Endpoint, probe: Probe) -> str:
    """Return the fingerprint that is served at this moment, empty when nothing answers."""
    try:
        return (await _look(endpoint, probe, endpoint.timeout_s)).fingerprint
    except CertctlError:
        return ""


async def served_after_undo(endpoint: Endpoint, unwanted: str, probe: Probe) -> str:
    """Return what is served once ``unwanted`` is gone, or ``unwanted`` if it stays until the deadline."""
    with trio.move_on_after(endpoint.timeout_s):
        while (seen := await served_now(endpoint, probe)) == unwanted:  # noqa: ASYNC110 - the server over there sets no event
            await trio.sleep(_FIRST_PAUSE_S)
        return seen
    return unwanted


async def _look(endpoint: Endpoint, probe: Probe, timeout_s: float) -> Observation:
    return await probe(endpoint.host, endpoint.port, sni=endpoint.sni, timeout_s=timeout_s)


async def _run(command: Command, runner: Runner, problem: str) -> None:
    result = await runner.run(command)
    if result.returncode != 0:
        raise Transient(f"{problem}: `{' '.join(command.argv)}` ended with {result.returncode}: {_said(result.output)}")


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    with explained("making a scratch folder"):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=root, prefix="check-", ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name)


def _write_trial(scratch: Path, check: StagedCheck) -> None:
    with explained("writing the trial configuration"):
        for name, text in check.files.items():
            (scratch / name).write_text(text)


def _said(output: str) -> str:
    text = " ".join(output.split())
    return text[-_MAX_OUTPUT:] or "(it printed nothing)"
