"""One deployment or repair in a process of its own: reads a task from standard input, writes the result to stdout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import msgspec
import trio

from agent.deployment.deployer import Deployer
from agent.policy import load_policy
from connectors.targets import registry
from core.secret import Secret
from core.wire import DeploymentItem


class Task(msgspec.Struct):
    """``user`` is whom to become once everything is imported: an ordinary user may not be able to read Python."""

    state: str
    policy: str
    item: DeploymentItem | None
    key: bytes
    user: int | None


def become(user: int) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


async def main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    await anyio.lowlevel.checkpoint()
    if task.user is not None:
        registry.find("nginx")
        become(task.user)
    deployer = Deployer(Path(task.state), load_policy(Path(task.policy), required=True))
    if task.item is None:
        sys.stdout.buffer.write(msgspec.json.encode(await deployer.repair()))
    else:
        sys.stdout.buffer.write(msgspec.json.encode(await deployer.deploy(task.item, Secret(task.key))))


if __name__ == "__main__":
    trio.run(main)
