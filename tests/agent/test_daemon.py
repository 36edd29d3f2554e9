"""The daemon as a whole against the double: start, stop, second signal, retirement, what prevents a start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import trio

from agent import daemon, endpoint
from agent.daemon import run
from agent.identity import load_identity
from agent.settings import Settings
from benchmarks.lab.processes import free_ports
from benchmarks.lab.servers import SmallServer
from core.certificates import fingerprint
from core.errors import Misconfigured
from core.names import parse_name
from core.wire import CSRSubmission, DeploymentItem, IssuanceItem
from tests.agent.double import ONE_TIME, Double, problem

pytestmark = pytest.mark.trio
MakeSettings = Callable[..., Settings]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Quick repetitions, no agent.toml of this machine's own, and signals that nobody awaits end a test alone."""
    monkeypatch.setattr("agent.backoff.FIRST_S", 0.01)
    monkeypatch.setattr(daemon, "DEFAULT_PATH", tmp_path / "no-agent.toml")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


class Running:
    """A daemon in this process; ``ended`` is set when it has returned."""

    def __init__(self) -> None:
        self.ended = trio.Event()

    async def has_ended(self) -> None:
        with trio.fail_after(20):
            await self.ended.wait()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Run a daemon beside the test; it must have ended by itself when the block ends."""
    daemon_of_ours = Running()

    async def live() -> None:
        await run(settings)
        daemon_of_ours.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        try:
            yield daemon_of_ours
            assert daemon_of_ours.ended.is_set()
        finally:
            nursery.cancel_scope.cancel()


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


async def asked_after(double: Double, first: str, count: int, then: str) -> None:
    """Wait for a request to the route ``then`` after the ``count``-th one to the route ``first``."""

    def came() -> bool:
        routes = [asked.route for asked in double.asked]
        places = [place for place, route in enumerate(routes) if route == first]
        return len(places) >= count and then in routes[places[count - 1] :]

    await double.until(came)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_it_enrolls_polls_and_stops_when_told(
    make_settings: MakeSettings, double: Double, state_dir: Path
) -> None:
    with structlog.testing.capture_logs() as entries:
        async with running(make_settings()) as agent:
            await double.until(lambda: double.of("work"))
            terminate()
            await agent.has_ended()
    assert [entry["event"] for entry in entries] == ["enrolled", "ready", "stopping"]
    assert ONE_TIME not in repr(entries)
    assert load_identity(state_dir).agent_id == "ag-1"
    assert modes(state_dir) == {"agent.lock": 0o600, "identity": 0o700, "keys": 0o700}


async def test_it_is_the_same_agent_at_the_next_start(make_settings: MakeSettings, double: Double) -> None:
    for start in (1, 2):
        async with running(make_settings()) as agent:
            await asked_after(double, "nonce", start, "work")
            terminate()
            await agent.has_ended()
    assert len(double.of("enroll")) == 1
    assert len({asked.query["boot"] for asked in double.of("work")}) == 2


async def test_what_a_crash_left_of_trials_and_journals_is_tidied(make_settings: MakeSettings, double: Double) -> None:
    settings = make_settings()
    leftovers = settings.state_dir / "scratch" / "check-1" / "nginx.conf", settings.state_dir / "journal" / ".tgt-a.tmp"
    for leftover in leftovers:
        leftover.parent.mkdir(parents=True)
        leftover.touch()
    async with running(settings) as agent:
        await double.until(lambda: double.of("work"))
        terminate()
        await agent.has_ended()
    assert not (settings.state_dir / "scratch").exists()
    assert list((settings.state_dir / "journal").iterdir()) == []


async def test_a_job_that_was_in_hand_goes_on_with_its_key_at_the_next_start(
    make_settings: MakeSettings, double: Double
) -> None:
    item = IssuanceItem("job-1", 1, "mc-a", "a.test", (parse_name("a.test"),), "ecdsa-p256")
    double.instead["csr"] = [problem(503, "transient")] * 50
    for start in (1, 2):
        async with running(make_settings()) as agent:
            double.offer(item)
            await asked_after(double, "nonce", start, "csr")
            terminate()
            await agent.has_ended()
    assert len({asked.read(CSRSubmission).csr for asked in double.of("csr")}) == 1


async def test_a_stop_ends_the_wait_for_a_coordinator_and_the_page_says_why(make_settings: MakeSettings) -> None:
    dead, page = free_ports(2)
    settings = make_settings(CERTCTL_SERVER_URL=f"https://127.0.0.1:{dead}", CERTCTL_AGENT_LISTEN=f"127.0.0.1:{page}")
    async with running(settings) as agent, httpx.AsyncClient(trust_env=False) as http:
        health: dict[str, str] = {}
        with trio.fail_after(20):
            while "refused" not in health.get("last_error", ""):
                await trio.sleep(0.01)
                health = await health_of(http, page)
        terminate()
        await agent.has_ended()
    assert health["status"] == "unhealthy"


async def health_of(http: httpx.AsyncClient, port: int) -> dict[str, str]:
    """Return what the page says, nothing before it listens."""
    try:
        answer: dict[str, str] = (await http.get(f"http://127.0.0.1:{port}/health")).json()
    except httpx.TransportError:
        return {}
    return answer


async def test_a_page_that_crashes_takes_nothing_down(
    make_settings: MakeSettings, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes: list[object] = []

    async def crash(*arguments: object) -> None:
        crashes.append(arguments)
        await trio.lowlevel.checkpoint()
        raise ValueError("a defect")

    monkeypatch.setattr(endpoint, "serve_page", crash)
    (port,) = free_ports(1)
    with structlog.testing.capture_logs():
        async with running(make_settings(CERTCTL_AGENT_LISTEN=f"127.0.0.1:{port}")) as agent:
            await double.until(lambda: len(crashes) > 2 and double.of("work"))
            terminate()
            await agent.has_ended()


async def test_a_retired_agent_ends(make_settings: MakeSettings, double: Double) -> None:
    double.instead["work"] = [problem(410, "gone", "agent ag-1 was retired")]
    with structlog.testing.capture_logs() as entries:
        async with running(make_settings()) as agent:
            await agent.has_ended()
    assert entries[-1] == {"event": "retired", "detail": "agent ag-1 was retired", "log_level": "warning"}


async def test_what_prevents_the_start_is_raised_plainly(make_settings: MakeSettings, double: Double) -> None:
    double.instead["enroll"] = [problem(401, "unauthenticated", "this token has expired")]
    with pytest.raises(Misconfigured, match="this token has expired"):
        await run(make_settings())
    with pytest.raises(Misconfigured, match="does not exist"):
        await run(make_settings(CERTCTL_AGENT_CONFIG="/nowhere/agent.toml"))
    (port,) = free_ports(1)
    async with running(make_settings(CERTCTL_AGENT_LISTEN=f"127.0.0.1:{port}")) as agent:
        await double.until(lambda: double.of("work"))
        other = make_settings(CERTCTL_STATE_DIR=str(make_settings().state_dir.parent / "other"))
        with pytest.raises(Misconfigured, match="another agent runs on"):
            await run(make_settings())
        other = make_settings(CERTCTL_STATE_DIR=str(other.state_dir), CERTCTL_AGENT_LISTEN=f"127.0.0.1:{port}")
        with pytest.raises(Misconfigured, match="CERTCTL_AGENT_LISTEN: cannot listen"):
            await run(other)
        terminate()
        await agent.has_ended()


class Gate:
    """A small server whose reload waits until the test lets it go on."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.folder = folder
        self.begun = folder / "reload-begun"
        self.open = folder / "go-on"
        self.server = SmallServer("web-1", folder / "web", port, ["a.test"])
        self.server.start()
        self.toml = folder / "agent.toml"
        self.toml.write_text(self._policy())
        self.toml.chmod(0o600)

    def _policy(self) -> str:
        reload = json.dumps([*self.server._command("reload")])
        waits = ["/bin/sh", "-c", 'touch "$0"; until [ -e "$1" ]; do sleep 0.02; done; shift; exec "$@"']
        slow = json.dumps([*waits, str(self.begun), str(self.open), *self.server._command("reload")])
        return self.server.policy().replace(reload, slow)

    async def deployment(self, double: Double) -> DeploymentItem:
        """Let the agent make a key, and return the deployment of its certificate."""
        names = (parse_name("a.test"),)
        double.offer(IssuanceItem("job-1", 1, "mc-a", "a.test", names, "ecdsa-p256"))
        await double.until(lambda: double.signed)
        leaf, spki = double.signed[0]
        return DeploymentItem(
            job_id="job-2",
            lease_epoch=1,
            certificate_id="mc-a",
            version_id="cv-1",
            target_id="tgt-a",
            target_type="files",
            config=self.server.target_config("a.test"),
            chain=(leaf,),
            fingerprint=fingerprint(leaf),
            spki_sha256=spki,
            names=names,
        )


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.open.touch()
    gate.server.process.stop()


async def test_a_stop_finishes_the_deployment_in_hand(make_settings: MakeSettings, double: Double, gate: Gate) -> None:
    async with running(make_settings(CERTCTL_AGENT_CONFIG=str(gate.toml))) as agent:
        double.offer(await gate.deployment(double))
        await double.until(gate.begun.exists)
        terminate()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not agent.ended.is_set()
        gate.open.touch()
        await agent.has_ended()
    assert [report.outcome for report in double.reports] == ["served"]


async def test_a_second_signal_stops_at_once_and_the_next_start_repairs(
    make_settings: MakeSettings, double: Double, gate: Gate, state_dir: Path
) -> None:
    settings = make_settings(CERTCTL_AGENT_CONFIG=str(gate.toml))
    async with running(settings) as agent:
        item = await gate.deployment(double)
        double.offer(item)
        await double.until(gate.begun.exists)
        terminate()
        await trio.testing.wait_all_tasks_blocked(0.05)
        terminate()
        await agent.has_ended()
    assert double.reports == []
    assert list((state_dir / "journal").glob("*.json"))
    gate.open.touch()
    with structlog.testing.capture_logs() as entries:
        async with running(settings) as agent:
            double.offer(item)
            await double.until(lambda: double.reports)
            terminate()
            await agent.has_ended()
    assert entries[0]["event"] == "deployment_repaired"
    assert [report.outcome for report in double.reports] == ["served"]


async def test_time_runs_out_for_what_never_ends(
    make_settings: MakeSettings, double: Double, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "FINISH_S", 0.2)
    async with running(make_settings(CERTCTL_AGENT_CONFIG=str(gate.toml))) as agent:
        double.offer(await gate.deployment(double))
        await double.until(gate.begun.exists)
        terminate()
        await agent.has_ended()
    assert double.reports == []


def program(variables: dict[str, str]) -> dict[str, Any]:
    """Return how the agent's own program is started."""
    return {"command": [sys.executable, "-m", "agent.main"], "env": variables, "cwd": REPOSITORY}


async def test_the_program_ends_with_0_when_told_to_stop(
    variables: dict[str, str], double: Double, tmp_path: Path
) -> None:
    (tmp_path / "agent.toml").touch(mode=0o600)
    process = await trio.lowlevel.open_process(
        **program({**variables, "CERTCTL_AGENT_CONFIG": str(tmp_path / "agent.toml"), "CERTCTL_AGENT_NAM": "x"}),
        stderr=subprocess.PIPE,
    )
    await double.until(lambda: double.of("work"))
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(20):
        assert await process.wait() == 0
    assert process.stderr is not None
    lines = [json.loads(line) for line in (await process.stderr.receive_some()).splitlines()]
    assert [line["event"] for line in lines] == ["setting_not_used", "enrolled", "ready", "stopping"]
    assert "did you mean CERTCTL_AGENT_NAME" in lines[0]["detail"]


@pytest.mark.parametrize("name", ["CERTCTL_SERVER_URL", "CERTCTL_STATE_DIR"])
async def test_the_program_ends_with_2_and_one_sentence(variables: dict[str, str], name: str) -> None:
    done = await trio.run_process(**program({**variables, name: "/dev/null/x"}), check=False, capture_stderr=True)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"certctl-agent cannot start: {name}")
    assert done.stderr.count(b"\n") == 1


async def test_a_hangup_reads_the_rules_again_and_keeps_those_in_force_when_they_are_wrong(
    make_settings: MakeSettings, double: Double, tmp_path: Path
) -> None:
    rules = tmp_path / "agent.toml"
    rules.write_text("")
    rules.chmod(0o600)
    with structlog.testing.capture_logs() as said:

        def says(event: str) -> Callable[[], bool]:
            return lambda: any(line["event"] == event for line in said)

        async with running(make_settings(CERTCTL_AGENT_CONFIG=str(rules))) as agent:
            await double.until(says("ready"))
            for text, event in (("allowed_paths = 3", "policy_not_loaded"), ("", "policy_loaded")):
                rules.write_text(text)
                signal.raise_signal(signal.SIGHUP)
                await double.until(says(event))
            terminate()
            await agent.has_ended()
    assert "allowed_paths" in next(line["detail"] for line in said if line["event"] == "policy_not_loaded")
