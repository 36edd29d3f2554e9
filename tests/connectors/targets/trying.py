"""Trials of staged pairs by a real program, under both event loops."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import trustme

from connectors.targets.base import Command, CommandResult, FileTarget, Material, Role, Service
from core.secret import Secret

MATERIAL = Material(b"LEAF\n", b"CHAIN\n", Secret(b"KEY\n"), "f" * 64)


class Runner:
    """Runs commands as an agent does: without an environment to speak of, in the root folder."""

    async def run(self, command: Command) -> CommandResult:
        """Run to the end."""
        bare = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        done = await anyio.run_process(command.argv, check=False, stderr=subprocess.STDOUT, env=bare, cwd="/")
        return CommandResult(done.returncode, done.stdout.decode())


async def trial(
    target: FileTarget[Any], service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path
) -> CommandResult:
    """Try the staged pairs."""
    check = await target.staged_check(service, staged, scratch, Runner())
    assert check is not None
    for name, text in check.files.items():
        (scratch / name).write_text(text)
    for name, path in check.links.items():
        (scratch / name).symlink_to(path)
    assert check.command is not None
    return await Runner().run(check.command)


def staged_pairs(folder: Path) -> dict[str, dict[Role, Path]]:
    """Write a pair ``apart``, a ``combined`` one and one of two that do not belong together, ``wrong``."""
    authority = trustme.CA()
    leaf, other = authority.issue_cert("a.test"), authority.issue_cert("a.test")
    paths = {name: folder / f"{name} file.pem" for name in ("certificate", "key", "other", "combined")}
    paths["certificate"].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    paths["key"].write_bytes(leaf.private_key_pem.bytes())
    paths["other"].write_bytes(other.private_key_pem.bytes())
    paths["combined"].write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    return {
        "apart": {"certificate": paths["certificate"], "key": paths["key"]},
        "combined": {"combined": paths["combined"]},
        "wrong": {"certificate": paths["certificate"], "key": paths["other"]},
    }
