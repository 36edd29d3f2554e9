"""Disks that are full, out of inodes or read-only, under the installed files and under the agent's own state.

Each fault has a file system of its own that is filled so far that one write or another is the first that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from benchmarks.lab.fleet import Agent, Coordinator
from tests.journeys.faults.disks import Disk, mounted
from tests.journeys.faults.ground import Record, Trouble, needs_root, play, prepared
from tests.journeys.faults.questions import Questions
from tests.journeys.stage import Stage
from tests.postgres import PostgresServer

pytestmark = [needs_root, pytest.mark.timeout(240)]
FULL = "the disk is full; make room there"
NO_INODES = r"its file system has room but can hold no more files \(see df -i\); remove some there"


class _Live(Trouble):
    """The file system of the installed files."""

    disk: Disk

    def mount(self, mounts: ExitStack) -> None:
        self.disk = mounts.enter_context(mounted(self.folder / self.name / "live", "0755"))

    def mend(self) -> None:
        self.disk.clear()


class VersionDoesNotFit(_Live):
    """Not even the certificate of the new version."""

    name = "live-full"
    step = "staged"
    cause = rf"writing the new files failed at \S+/live/\S+/\.staged/certificate\.pem: {FULL}"

    def strike(self) -> None:
        self.disk.fill()


class KeyDoesNotFit(_Live):
    """The certificate of the new version fits, its key does not."""

    name = "live-nearly-full"
    step = "staged"
    cause = rf"writing the new files failed at \S+/live/\S+/\.staged/key\.pem: {FULL}"

    def strike(self) -> None:
        self.disk.fill(leaving=1)


class CopyDoesNotFit(_Live):
    """Plain files: the version fits, and its copies at the configured paths do not."""

    name = "live-no-copy"
    layout = "separate"
    step = "published"
    cause = rf"installing the new files failed at \S+/live/\S+\.tmp: {FULL}"

    def strike(self) -> None:
        self.disk.fill(leaving=2)


class NoInodes(_Live):
    """Room for bytes, and none for another name."""

    name = "live-inodes"
    step = "staged"
    cause = rf"writing the new files failed at \S+/\.staged: {NO_INODES}"

    def strike(self) -> None:
        self.disk.use_up_inodes()


class ReadOnly(_Live):
    """The kernel made it read-only."""

    name = "live-read-only"
    step = "staged"
    cause = r"writing the new files failed at \S+: the file system is read-only for the agent; see whether the kernel"

    def strike(self) -> None:
        self.disk.remount("ro")

    def mend(self) -> None:
        self.disk.remount("rw")


class _State(_Live):
    """The file system of the agent's state."""

    def mount(self, mounts: ExitStack) -> None:
        self.disk = mounts.enter_context(mounted(self.folder / f"agent-{self.name}" / "state", "0700"))


class RequestDoesNotFit(_State):
    """Nothing new can be kept, so no certificate is asked for."""

    name = "state-full"
    kind = step = "issuance"
    cause = rf"writing \S+/keys/\S+\.request failed at \S+: {FULL}"

    def strike(self) -> None:
        self.disk.fill()


class FirstRequestDoesNotFit(RequestDoesNotFit):
    """The same before the first certificate."""

    name = "first-state-full"
    first = True


class AgentKeyDoesNotFit(_State):
    """The request fits, its key does not."""

    name = "state-no-key"
    kind = step = "issuance"
    cause = rf"writing \S+/keys/mc-[a-z0-9]+/[0-9a-f]{{64}} failed at \S+: {FULL}"

    def strike(self) -> None:
        self.disk.fill(leaving=1)


class ChainDoesNotFit(_State):
    """Key and request fit and the certificate is issued; nothing more fits, neither its chain nor a trial of it."""

    name = "state-no-chain"
    step = "validated"
    cause = r"writing the trial configuration failed.*: the disk is full; make room"

    def strike(self) -> None:
        self.disk.fill(leaving=2)


class JournalDoesNotFit(_State):
    """The new version fits, the undo journal does not: the journals have a full file system of their own."""

    name = "state-no-journal"
    step = "published"
    cause = rf"writing the undo journal failed at \S+: {FULL}"

    def mount(self, mounts: ExitStack) -> None:
        """Mount it where the journals are."""
        self.disk = mounts.enter_context(mounted(self.folder / f"agent-{self.name}" / "state" / "journal", "0700"))

    def strike(self) -> None:
        self.disk.fill()


class StateNoInodes(_State):
    """No inode for a new key."""

    name = "state-inodes"
    kind = step = "issuance"
    cause = rf"writing \S+/keys/\S+ failed at \S+: {NO_INODES}"

    def strike(self) -> None:
        self.disk.use_up_inodes()


LIVE = (VersionDoesNotFit, KeyDoesNotFit, CopyDoesNotFit, NoInodes, ReadOnly)
STATE = (
    *(RequestDoesNotFit, FirstRequestDoesNotFit, AgentKeyDoesNotFit, ChainDoesNotFit, JournalDoesNotFit),
    StateNoInodes,
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[dict[str, Record]]:
    """All of it, played once: live folders beside one agent, and state folders of one agent each."""
    folder = tmp_path_factory.mktemp("disks")
    troubles = [kind(folder) for kind in (*LIVE, *STATE)]
    with ExitStack() as mounts:
        for trouble in troubles:
            trouble.mount(mounts)
        stage, journey = mounts.enter_context(prepared(folder, postgres_server))
        for trouble in troubles:
            trouble.prepare(stage)
        allowed = f'allowed_paths = ["{folder}"]\n'
        live, state = troubles[: len(LIVE)], troubles[len(LIVE) :]
        shared = stage.unstarted_agent("shared", journey.coordinator, allowed + "".join(t.policy() for t in live))
        agents = [shared, *(_agent(stage, journey.coordinator, allowed, trouble) for trouble in state)]
        for agent in agents:
            agent.process.start()
        for agent in agents:
            agent.process.await_ready(partial(_enrolled, agent))
        yield play(troubles, journey, [shared] * len(LIVE) + agents[1:])


def _enrolled(agent: Agent) -> bool:
    return bool(agent.agent_id)


def _agent(stage: Stage, coordinator: Coordinator, allowed: str, trouble: Trouble) -> Agent:
    return stage.unstarted_agent(trouble.name, coordinator, allowed + trouble.policy())


@pytest.fixture(params=[kind.name for kind in (*LIVE, *STATE)])
def record(request: pytest.FixtureRequest, records: dict[str, Record]) -> Record:
    """One trouble, which went through all its parts."""
    found = records[request.param]
    assert not found.problem
    return found


class TestDisks(Questions):
    """Each question to each trouble."""
