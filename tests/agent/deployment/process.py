"""One deployment or repair in a process of its own: reads a task from standard input, writes the result to stdout."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import trio

from agent.deployment.deployer import Deployer
from agent.policy import load_policy
from core.secret import Secret
from core.wire import DeploymentItem


class Task(msgspec.Struct):
    state: str
    policy: str
    item: DeploymentItem | None
    key: bytes


async def main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    deployer = Deployer(Path(task.state), load_policy(Path(task.policy), required=True))
    if task.item is None:
        sys.stdout.buffer.write(msgspec.json.encode(await deployer.repair()))
    else:
        sys.stdout.buffer.write(msgspec.json.encode(await deployer.deploy(task.item, Secret(task.key))))


if __name__ == "__main__":
    trio.run(main)
