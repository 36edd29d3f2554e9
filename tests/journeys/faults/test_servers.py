"""The web server is in trouble while its certificate is renewed, or issued for the first time.

All of it happens at once, to twelve servers of one agent; each test then asks one question of one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.lab.processes import free_ports, wait_until
from benchmarks.lab.servers import SmallServer
from benchmarks.lab.wire import look
from tests.journeys.faults.ground import Record, Trouble, play, prepared
from tests.journeys.faults.questions import Questions
from tests.journeys.faults.reloading import NGINX, Reloading
from tests.journeys.stage import Stage
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)


class _Scripted(Trouble):
    """An nginx that the agent reaches through a program of the test's, which becomes the real one."""

    script = ":"

    def program(self) -> Path:
        path = self.folder / f"{self.name}-nginx"
        path.write_text(f'#!/bin/sh\nif test -e {self.flag}; then\n{self.script}\nfi\nexec {NGINX} "$@"\n')
        path.chmod(0o755)
        return path

    def policy(self) -> str:
        binary = f'binary = "{NGINX}"'
        lines = super().policy()
        assert binary in lines
        return lines.replace(binary, f'binary = "{self.program()}"')


class TrialFails(_Scripted):
    """nginx cannot load the staged files: here because it may open too few files; the words are its own."""

    name = "trial-fails"
    script = 'case "$*" in *scratch*) ulimit -n 4;; esac'
    step = "validated"
    cause = r"trial-fails cannot load the new files: .*Too many open files"


class OtherSiteBroken(Trouble):
    """Another site of the same nginx.conf lost its certificate."""

    name = "other-site-broken"
    step = "checked"
    cause = (
        r"the live configuration does not pass its check: .*other-other-site-broken\S+fullchain\.pem.*No such file"
        r".*it fails with the previous files as well, so its cause lies elsewhere"
    )

    @property
    def lost(self) -> Path:
        return self.server.sites[f"other-{self.site}"].cert_path

    def strike(self) -> None:
        self.lost.rename(self.lost.with_suffix(".away"))

    def mend(self) -> None:
        self.lost.with_suffix(".away").rename(self.lost)


class FirstWithOtherSiteBroken(OtherSiteBroken):
    """The same before the first certificate."""

    name = "first-other-site-broken"
    first = True
    cause = OtherSiteBroken.cause.replace("other-other", "other-first-other")


class ReloadFails(Reloading):
    """The reload command says no."""

    name = "reload-fails"
    script = "echo 'Job for nginx.service failed.'; exit 1"
    step = "reloaded"
    cause = r"the reload failed: `\S+reload-fails-reload` ended with 1: Job for nginx\.service failed\."


class ReloadHangs(Reloading):
    """The reload command does not end."""

    name = "reload-hangs"
    script = "exec sleep 600"
    timeout_s = 1
    step = "reloaded"
    cause = r"`\S+reload-hangs-reload` did not end within 1 s"


class ReloadGone(Reloading):
    """The program that reloads was removed."""

    name = "reload-gone"
    step = "reloaded"
    cause = r"\S+reload-gone-reload cannot be run: No such file or directory"

    @property
    def program(self) -> Path:
        return self.folder / "reload-gone-reload"

    def strike(self) -> None:
        self.program.rename(self.flag)

    def mend(self) -> None:
        self.flag.rename(self.program)


class BinaryGone(_Scripted):
    """nginx itself was removed, as in the middle of a package's upgrade; the running one goes on."""

    name = "binary-gone"
    step = "validated"
    cause = r"\S+binary-gone-nginx cannot be looked at: No such file or directory; is nginx installed\?"

    def strike(self) -> None:
        (self.folder / "binary-gone-nginx").rename(self.flag)

    def mend(self) -> None:
        self.flag.rename(self.folder / "binary-gone-nginx")


class _Intruded(Trouble):
    """Something else answers at the address that the target is looked at."""

    old_is_served = False
    probe_s = 1.0

    def prepare(self, stage: Stage) -> None:
        super().prepare(stage)
        self.address = self.server.port
        self.intruder = SmallServer(f"in-{self.name}", self.folder / "intruder" / self.name, self.address, [self.site])
        stage.keep(self.intruder.process)


class PortTaken(_Intruded):
    """nginx was stopped, and another program took its port."""

    name = "port-taken"
    step = "reloaded"
    cause = r"the reload failed: .*nginx\.pid"

    def strike(self) -> None:
        self.server.process.stop()
        self.intruder.start()

    def mend(self) -> None:
        self.intruder.process.stop()
        self.server.start()


class TerminatorInFront(_Intruded):
    """A TLS terminator with a certificate of its own took the address; nginx moved behind it."""

    name = "terminator"
    step = "served"
    cause = (
        r"was not served within 1 s: 127\.0\.0\.1:\d+ \(terminator\.example\.test\) serves the certificate [0-9a-f]{64}"
    )

    def _move(self, port: int) -> None:
        self.server.process.stop()
        self.server.port = port
        self.server.mend()
        self.server.process.start()
        wait_until("nginx has moved", lambda: look(port, self.site) is not None)

    def strike(self) -> None:
        self._move(free_ports(1)[0])
        self.intruder.start()

    def mend(self) -> None:
        self.intruder.process.stop()
        self._move(self.address)


class WrongBlock(Trouble):
    """The server block of the name was changed to another site's files."""

    name = "wrong-block"
    step = "served"
    old_is_served = False
    probe_s = 1.0
    cause = r"was not served within 1 s: .* does the server block for this name use the target's paths"

    def strike(self) -> None:
        own, other = self.server.sites[self.site], self.server.sites[f"other-{self.site}"]
        config = self.server.config.read_text()
        self.server.config.write_text(config.replace(f"{own.folder}/", f"{other.folder}/"))

    def mend(self) -> None:
        self.server.mend()


class Stopped(Trouble):
    """nginx does not run."""

    name = "stopped"
    step = "reloaded"
    old_is_served = False
    cause = r"the reload failed: .* nothing answers at \S+ \(\S*stopped\.example\.test\): is the server running\?"

    def strike(self) -> None:
        self.server.process.stop()

    def mend(self) -> None:
        self.server.start()


class FirstWhileStopped(Stopped):
    """The same before the first certificate."""

    name = "first-stopped"
    first = True


TROUBLES = (
    *(TrialFails, OtherSiteBroken, FirstWithOtherSiteBroken, ReloadFails, ReloadHangs, ReloadGone, BinaryGone),
    *(PortTaken, TerminatorInFront, WrongBlock, Stopped, FirstWhileStopped),
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[dict[str, Record]]:
    """All of it, played once."""
    folder = tmp_path_factory.mktemp("servers")
    with prepared(folder, postgres_server) as (stage, journey):
        troubles = [kind(folder) for kind in TROUBLES]
        for trouble in troubles:
            trouble.prepare(stage)
        policy = f'allowed_paths = ["{folder}"]\n' + "".join(trouble.policy() for trouble in troubles)
        parallel = {"CERTCTL_MAX_PARALLEL_DEPLOYMENTS": str(len(troubles))}
        agent = stage.agent("edge", journey.coordinator, policy, **parallel)
        yield play(troubles, journey, [agent] * len(troubles))


@pytest.fixture(params=[kind.name for kind in TROUBLES])
def record(request: pytest.FixtureRequest, records: dict[str, Record]) -> Record:
    """One trouble, which went through all its parts."""
    found = records[request.param]
    assert not found.problem
    return found


class TestServers(Questions):
    """Each question to each trouble."""
