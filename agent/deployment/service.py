"""One daemon on this host, as the engine acts on it: try staged files, check the live configuration, reload, look.

No undo is decided here; every function either succeeds or says why not.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import trio

from agent.deployment.prepare import Endpoint, Prepared
from agent.files import explained
from connectors.probes import verify
from connectors.targets import registry
from connectors.targets.base import APITarget, Command, Probe, Role, Runner, ServiceCommands, StagedCheck
from core.errors import CertctlError, DeadlineExceeded, Refused, Transient

SIGHTINGS = 3
"""Fresh connections in a row that must show the same, because several workers may answer."""

SETTLE_S = 0.11
"""How long after its first sighting the new certificate must still be what is seen.

nginx lets its old workers accept for a tenth of a second beside the new ones; only then is the old certificate gone.
"""

_LOOK_S = 3.0
_SHORTEST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25
_MAX_OUTPUT = 600


async def try_staged(
    prepared: Prepared, staged: Sequence[Mapping[Role, Path]], scratch_root: Path, runner: Runner
) -> bool:
    """Let the daemon's own program load the staged files; raise ``Refused`` with its words when it does not.

    Returns whether there was anything to try them with.
    """
    with _scratch_folder(scratch_root) as scratch:
        check = await prepared.connector.staged_check(prepared.service, staged, scratch, runner)
        if check is None:
            return False
        if check.command is None:
            return True
        _write_trial(scratch, check)
        result = await runner.run(check.command)
    if result.returncode != 0 and not (check.passed and check.passed in result.output):
        raise Refused(f"{prepared.service.name} cannot load the new files: {_said(result.output)}")
    return True


async def check_live(commands: ServiceCommands, runner: Runner) -> None:
    """Check the live configuration, if that can be done; raise ``Transient``, since whoever broke it will repair it."""
    if commands.check is not None:
        await _run(commands.check, runner, "the live configuration does not pass its check")


async def reload(commands: ServiceCommands, published: Sequence[Mapping[Role, Path]], runner: Runner) -> None:
    """Make the daemon take these files into use, unless it watches them; raise ``Transient`` when it does not."""
    if commands.api is not None:
        connector = registry.find(commands.api.type)
        assert isinstance(connector, APITarget), "only such a connector was asked"  # noqa: S101
        if await connector.apply(commands.api, published):
            return
    if commands.reload is not None:
        await _run(commands.reload, runner, "the reload failed")


def with_hint(error: CertctlError, endpoint: Endpoint) -> CertctlError:
    """Add to a failed reload that nothing answers either: the server is probably stopped."""
    if not isinstance(error, Transient) or isinstance(error, DeadlineExceeded):
        return error
    return Transient(f"{error.detail} – nothing answers at {endpoint}: is the server running?")


async def wait_until_served(
    endpoint: Endpoint,
    fingerprint: str,
    probe: Probe,
    reads: str = "the server block for this name use the target's paths",
) -> str:
    """Return what every client sees when that is ``fingerprint`` with its chain, in words.

    Raises ``DeadlineExceeded`` with what is seen instead.
    """
    done, seen = await _watch(endpoint, probe, lambda sight: sight.shows(fingerprint), endpoint.timeout_s)
    if done:
        return seen.words
    if seen.fingerprint == fingerprint:
        problem = f"{endpoint} serves the certificate {fingerprint}, but {seen.shortcoming}"
        raise DeadlineExceeded(f"{problem} (so for {endpoint.timeout_s:g} s)")
    remedy = f"does {reads}, and is the probe's port right?"
    raise DeadlineExceeded(
        f"the certificate {fingerprint} was not served within {endpoint.timeout_s:g} s: {seen.words}; {remedy}"
    )


async def is_served(endpoint: Endpoint, fingerprint: str, probe: Probe) -> bool:
    """Say whether ``fingerprint`` is served already, with some patience for a reload that has just been."""
    patience = min(endpoint.timeout_s, 3 * SETTLE_S)
    done, _ = await _watch(endpoint, probe, lambda sight: sight.shows(fingerprint), patience, settle_s=0)
    return done


async def seen_now(endpoint: Endpoint, fingerprint: str, probe: Probe) -> tuple[str, str]:
    """Return what is served, empty when nothing answers, and what is wrong with it unless it is ``fingerprint``.

    Something else is told only when it stays for a while: a reload may have just been.
    """
    patience = min(endpoint.timeout_s, _LOOK_S)
    done, seen = await _watch(endpoint, probe, lambda sight: sight.shows(fingerprint), patience, settle_s=0)
    return (fingerprint, "") if done else (seen.fingerprint, seen.shortcoming or seen.words)


async def served_now(endpoint: Endpoint, probe: Probe) -> str:
    """Return the fingerprint that is served at this moment, empty when nothing answers."""
    return (await _look(endpoint, probe, endpoint.timeout_s)).fingerprint


async def served_after_undo(endpoint: Endpoint, unwanted: str, probe: Probe) -> str:
    """Return what is served once ``unwanted`` is gone, or ``unwanted`` if it stays until the deadline."""
    _, seen = await _watch(endpoint, probe, lambda sight: sight.fingerprint != unwanted, endpoint.timeout_s)
    return seen.fingerprint


class _Sight(msgspec.Struct, frozen=True):
    """One look: a fingerprint, or none; the same in words; and what is wrong with how it is served."""

    fingerprint: str
    words: str
    shortcoming: str = ""

    def shows(self, fingerprint: str) -> bool:
        """Say whether this certificate is served as it should be."""
        return self.fingerprint == fingerprint and not self.shortcoming


async def _watch(
    endpoint: Endpoint, probe: Probe, fits: Callable[[_Sight], bool], timeout_s: float, *, settle_s: float = SETTLE_S
) -> tuple[bool, _Sight]:
    """Look until ``SIGHTINGS`` looks in a row fit, the last of them ``settle_s`` after the first that ever did."""
    started, first, in_a_row = trio.current_time(), math.inf, 0
    seen = _Sight("", "nothing was seen")
    while (left := timeout_s - (elapsed := trio.current_time() - started)) > 0:
        latest = await _look(endpoint, probe, left)
        if seen.fingerprint and not latest.fingerprint and trio.current_time() - started >= timeout_s:
            break  # a look that the deadline cut off tells less than the one before
        seen = latest
        if fits(seen):
            first = min(first, trio.current_time())
            unsettled = first + settle_s - trio.current_time()
            in_a_row = 0 if unsettled > 0 else in_a_row + 1
            if in_a_row == SIGHTINGS:
                return True, seen
            await trio.sleep(max(0, min(unsettled, left)))
        else:
            in_a_row = 0
            # Pauses in proportion to the time waited find the moment to a tenth without flooding a slow server.
            await trio.sleep(min(max(elapsed / 10, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S, left))
    return False, seen


async def _look(endpoint: Endpoint, probe: Probe, timeout_s: float) -> _Sight:
    try:
        seen = await probe(
            endpoint.host, endpoint.port, sni=endpoint.sni, timeout_s=timeout_s, protocol=endpoint.protocol
        )
    except CertctlError as error:
        return _Sight("", error.detail)
    if seen.leaf not in endpoint.chain[:1]:
        return _Sight(seen.fingerprint, f"{endpoint} serves the certificate {seen.fingerprint}")
    return _Sight(seen.fingerprint, f"{endpoint}: {verify.in_words(seen)}", verify.shortcoming(seen, endpoint.chain))


async def _run(command: Command, runner: Runner, problem: str) -> None:
    result = await runner.run(command)
    if result.returncode != 0:
        said = command.reasons if command.reasons and not result.output.strip() else _said(result.output)
        raise Transient(f"{problem}: `{' '.join(command.argv)}` ended with {result.returncode}: {said}")


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
        for name, path in check.links.items():
            (scratch / name).symlink_to(path)


def _said(output: str) -> str:
    text = " ".join(output.split()).replace("\0", "\ufffd")
    return text[-_MAX_OUTPUT:] or "(it printed nothing)"
