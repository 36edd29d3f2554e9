"""The command runner on real processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from agent.deployment.commands import MAX_OUTPUT, HostRunner
from connectors.targets.base import Command
from core.errors import DeadlineExceeded, Misconfigured
from tests.agent.deployment.world import until

RUNNER = HostRunner()


def shell(script: str, timeout_s: float = 10) -> Command:
    return Command(("/bin/sh", "-c", script), timeout_s)


@pytest.mark.trio
async def test_output_and_status_are_returned() -> None:
    result = await RUNNER.run(shell("echo out; echo err >&2; exit 3"))
    assert (result.returncode, result.output.split()) == (3, ["out", "err"])


@pytest.mark.trio
async def test_arguments_are_not_interpreted() -> None:
    result = await RUNNER.run(Command(("/bin/echo", "$HOME; `id` > x")))
    assert result.output == "$HOME; `id` > x\n"


@pytest.mark.trio
async def test_the_environment_is_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTCTL_AGENT_BOOTSTRAP_TOKEN", "hidden")
    assert "hidden" not in (await RUNNER.run(Command(("/usr/bin/env",)))).output


@pytest.mark.trio
async def test_output_is_capped() -> None:
    result = await RUNNER.run(shell("head -c 1000000 /dev/zero | tr '\\0' x"))
    assert (result.returncode, len(result.output)) == (0, MAX_OUTPUT)


@pytest.mark.trio
async def test_private_keys_are_taken_out() -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nsecret\n-----END EC PRIVATE KEY-----"  # pragma: allowlist secret
    result = await RUNNER.run(Command(("/bin/echo", f"before {key} after")))
    assert result.output == "before (key removed) after\n"


@pytest.mark.trio
async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        await RUNNER.run(shell(f"sleep 60 & echo $! > {pid_file}; wait", 0.3))
    child = int(pid_file.read_text())
    until(lambda: not alive(child), "the child is gone")


@pytest.mark.trio
async def test_a_daemon_left_behind_does_not_hold_the_command() -> None:
    """It keeps the pipe open, but the command itself has ended."""
    with trio.fail_after(8):
        result = await RUNNER.run(shell("echo started; sleep 9 & exit 0", 20))
    assert (result.returncode, result.output) == (0, "started\n")


@pytest.mark.trio
@pytest.mark.parametrize("program", ["/nowhere/program", "/etc/passwd", "/"])
async def test_a_program_that_cannot_run_is_named(program: str) -> None:
    with pytest.raises(Misconfigured, match=f"{program} cannot be run"):
        await RUNNER.run(Command((program,)))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
