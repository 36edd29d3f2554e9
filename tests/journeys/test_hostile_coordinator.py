"""A stolen coordinator must not own the hosts: everything an attacker can say to a real agent, and what came of it.

The agent is the unmodified program with its own agent.toml; the coordinator is the journey's, speaks the agent's
protocol and means harm. After hundreds of attacks nothing outside of the allowed folder has changed, no command was run
but nginx with the argv that is built in, and the agent still does an honest job.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from benchmarks.lab.fleet import Agent
from benchmarks.lab.processes import wait_until
from benchmarks.lab.servers import toml_string
from benchmarks.lab.wire import look, verified
from core.csr import build_csr
from core.keys import KeyAlgorithm, generate
from core.names import parse_name
from core.wire import DeploymentItem, IssuanceItem, Work
from tests.journeys.attacker import BEARER, Attacker, Item, Request, http, saying
from tests.journeys.attacks import Ground, job_ids, on_chains, on_deployments, on_issuances, with_odd_paths
from tests.journeys.canaries import SYSTEM, differences, snapshot, watched_descendants
from tests.journeys.listener import Listener, listening
from tests.journeys.stage import Stage, recording_nginx

pytestmark = pytest.mark.timeout(240)
SITE = "shop.example.test"


class Victim:
    """A host with one nginx and one agent, and the attacker that the agent obeys."""

    def __init__(self, stage: Stage, attacker: Attacker) -> None:
        self.attacker = attacker
        self.server = stage.nginx("web", SITE)
        self.allowed = self.server.folder / "live"
        self.binary = self.server.process.argv[0]
        self.program, self.notes = recording_nginx(stage.folder, self.binary)
        policy = (
            f"allowed_paths = [{toml_string(self.allowed)}]\n[services.web]\ntype = 'nginx'\n"
            f"binary = {toml_string(self.program)}\nconfig = {toml_string(self.server.config)}\n"
        )
        self.agent: Agent = stage.agent("edge", attacker, policy)
        self._certificates = 0

    def item(self) -> DeploymentItem:
        """Have a key made and return an honest deployment of its certificate."""
        self._certificates += 1
        number = self._certificates
        leaf, spki = self.attacker.issue("mc-web", SITE, f"job-k{number}")
        return DeploymentItem(
            job_id=f"job-h{number}",
            lease_epoch=1,
            certificate_id="mc-web",
            version_id="cv-1",
            target_id="tgt-web",
            target_type="nginx",
            config=self.server.target_config(SITE),
            chain=(leaf,),
            fingerprint=sha256(leaf).hexdigest(),
            spki_sha256=spki,
            names=(parse_name(SITE),),
        )

    def does_an_honest_job(self) -> None:
        """See the agent do what it is for."""
        item = self.item()
        self.attacker.give(item)
        report = self.attacker.report(item.job_id, deadline_s=60)
        assert report.outcome == "served", report
        assert verified(self.server.port, SITE, self.attacker.root_pem).fingerprint == item.fingerprint
        assert self.agent.process.running()


@pytest.fixture
def victim(stage: Stage) -> Iterator[Victim]:
    """An enrolled agent in an attacker's hands."""
    with listening(Attacker(stage.folder / "attacker")) as attacker:
        yield Victim(stage, attacker)


def test_no_work_reaches_beyond_the_hosts_own_rules(stage: Stage, victim: Victim) -> None:
    """Hundreds of hostile deployments and issuances: every one fails, and the host is as it was."""
    attacker = victim.attacker
    ground = Ground(
        allowed=victim.allowed,
        outside=stage.folder / "outside",
        state=victim.agent.state_dir,
        policy=Path(victim.agent.env["CERTCTL_AGENT_CONFIG"]),
        server_config=victim.server.config,
        marker=stage.folder / "a-command-was-run",
    )
    victim.does_an_honest_job()
    ground.prepare()
    served, honest = look(victim.server.port, SITE), victim.item()
    # A deployment that gets as far as its probe is not served where the attack has put the files.
    quick = {**honest.config, "probe": {**honest.config["probe"], "timeout_s": 0.3}}
    honest = msgspec.structs.replace(honest, config=quick)
    other, huge = attacker.sign(_foreign_csr()), attacker.huge_certificate()
    attacks, on_chain = list(on_deployments(ground)), list(on_chains(honest, other, huge))
    attacks += on_chain
    assert len(attacks) > 350
    around = _Around(stage, victim)
    with watched_descendants(victim.agent.process.pid) as commands:
        deployments = [attack.of(honest, f"job-d{number}") for number, attack in enumerate(attacks)]
        _give_in_turns(attacker, deployments[: -len(on_chain)])
        _give_in_turns(attacker, deployments[-len(on_chain) :], at_once=1)
        _give_in_turns(attacker, on_issuances(ground))
        reports = {attack.what: attacker.report(f"job-d{number}", 0) for number, attack in enumerate(attacks)}
        assert {what: report for what, report in reports.items() if report.outcome != "failed"} == {}
        assert {what: report for what, report in reports.items() if report.undo == "failed"} == {}
        around.is_unchanged()
        assert look(victim.server.port, SITE) == served
        odd = [attack.of(honest, f"job-o{number}") for number, attack in enumerate(with_odd_paths(ground))]
        _give_in_turns(attacker, odd)
        around.is_unchanged(inside=False)
        victim.does_an_honest_job()

    _only_nginx_was_run(victim, commands)
    _the_state_folder_is_in_order(victim)


def _foreign_csr() -> bytes:
    return build_csr(generate(KeyAlgorithm.ECDSA_P256), SITE, (parse_name(SITE),))


def _give_in_turns(attacker: Attacker, items: Iterable[Item], at_once: int = 16) -> None:
    """Give out some at a time, and wait until each was answered: by a report, or by a CSR."""
    waiting = list(items)
    while waiting:
        some, waiting = waiting[:at_once], waiting[at_once:]
        attacker.give(*some)
        attacker.await_answers({item.job_id for item in some})


class _Around:
    """What lies around the agent: strictly as it was, and the allowed folder but for the times of what was put back."""

    def __init__(self, stage: Stage, victim: Victim) -> None:
        server = victim.server.folder
        written_by_others = [server / name for name in ("server.log", "error.log", "nginx.pid")]
        self._watched = [stage.folder, *map(Path, SYSTEM)]
        self._left_out = [victim.agent.state_dir, victim.agent.process.log, victim.notes, victim.allowed]
        self._left_out += [stage.folder / "attacker", *written_by_others]
        self._allowed = victim.allowed
        self._before = self._look()

    def _look(self) -> tuple[dict[str, str], dict[str, str]]:
        inside = snapshot([self._allowed], times=False)
        # Folders that an attempt needed stay, empty; what is in them counts.
        return snapshot(self._watched, self._left_out), {name: what for name, what in inside.items() if what[0] != "d"}

    def is_unchanged(self, *, inside: bool = True) -> None:
        """Compare."""
        for before, after in list(zip(self._before, self._look(), strict=True))[: 1 + inside]:
            assert len(before) > 10
            assert differences(before, after) == {}


def _only_nginx_was_run(victim: Victim, seen: set[tuple[str, ...]]) -> None:
    """Hold every argv against the four that the connector builds in, and every process seen against nginx."""
    scratch = re.escape(str(victim.agent.state_dir / "scratch"))
    allowed = (
        "-V",
        f"-t -q -c {re.escape(str(victim.server.config))}",
        f"-s reload -c {re.escape(str(victim.server.config))}",
        f"-t -q -p {scratch}/check-[a-z0-9_]+/ -c {scratch}/check-[a-z0-9_]+/nginx.conf -e stderr",
    )
    notes = victim.notes.read_text()
    calls = [" ".join(re.findall("^word (.*)$", call, re.MULTILINE)) for call in notes.split("call\n")[1:]]
    assert len(calls) > 10
    assert [call for call in calls if not any(re.fullmatch(form, call) for form in allowed)] == []
    assert "CERTCTL_" not in notes
    programs = (victim.binary, "env", str(victim.program), "nginx:")
    strangers = {
        argv
        for argv in seen
        # Read while it is replaced, a command line begins as the agent's own and ends as the next one.
        if argv and list(argv[:3]) != victim.agent.process.argv[:3] and argv[:2] != ("/bin/sh", str(victim.program))
        if not argv[0].startswith(programs)
    }
    assert strangers == set()
    assert any(str(victim.program) in argv for argv in seen)


def _the_state_folder_is_in_order(victim: Victim) -> None:
    """Nothing lies in the agent's own folder but its identity, keys under their names, and what was installed."""
    forms = (
        r"agent\.lock",
        r"identity/(signing\.key|sealing\.key|agent-id)",
        r"installed/tgt-web\.json",
        r"keys/mc-[a-z0-9-]{1,64}/[0-9a-f]{64}(\.pem|\.request)?",
    )
    state = victim.agent.state_dir
    files = [str(path.relative_to(state)) for path in state.rglob("*") if not path.is_dir()]
    assert [name for name in files if not any(re.fullmatch(form, name) for form in forms)] == []


def test_ids_of_jobs_do_not_steer_requests(victim: Victim) -> None:
    """Ids that are no ids end in no other request than those of the agent's own routes."""
    honest, attacker = victim.item(), victim.attacker
    marker = victim.server.folder / "a-command-was-run"
    for odd in job_ids(marker):
        issuance = IssuanceItem(odd, 1, "mc-odd", SITE, (parse_name(SITE),), "ecdsa-p256")
        attacker.give(msgspec.structs.replace(honest, job_id=odd, target_id="tgt-odd", chain=()), issuance)
        attacker.await_polls(2)
    many = (f"job-m{number}{'x' * 200}" for number in range(600))
    attacker.give(*(msgspec.structs.replace(honest, job_id=job_id, chain=()) for job_id in many))
    victim.does_an_honest_job()
    routes = r"/api/v1/agents(/ag-[a-z0-9]+/(nonce|token|work\?\S*|jobs/\S*))?"
    assert [each.path for each in attacker.answers.requests if not re.fullmatch(routes, each.path)] == []
    assert not marker.exists()


NESTED = b'{"items":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
STALE = b'{"type":"urn:certctl:problem:stale-lease","detail":"no"}'
UNAUTHENTICATED = b'{"type":"urn:certctl:problem:unauthenticated","title":"x","status":401,"detail":"no"}'


def test_answers_that_are_none_end_in_another_try(victim: Victim) -> None:
    """Broken, endless, packed and slow answers: the agent stays small, polls on, and works when it is let."""
    attacker = victim.attacker
    small = _peak_kib(victim.agent.process.pid)
    attacker.trick("/jobs/job-slow/csr", _dripping)
    attacker.give(IssuanceItem("job-slow", 1, "mc-slow", SITE, (parse_name(SITE),), "ecdsa-p256"))
    bomb = gzip.compress(bytes(200 << 20), 1)
    for answer in (
        b"not HTTP at all\r\n\r\n",
        http(200, b"{"),
        http(200, b"[]"),
        http(200, b""),
        http(204, b""),
        http(200, b"\xff\xfe\x00"),
        http(200, b'{"items":"\xff"}'),
        http(200, NESTED),
        http(200, b'{"items":[{"kind":"shell","argv":["/usr/bin/true"]}]}'),
        http(200, msgspec.json.encode(Work()).replace(b"[]", b'[{"kind":"deployment","job_id":1}]')),
        http(200, b"<html>sign in</html>", "Content-Type: text/html"),
        http(401, b"{}"),
        http(401, UNAUTHENTICATED),
        http(403, b"{}"),
        http(404, b"<html></html>", "Content-Type: text/html"),
        http(409, STALE),
        http(500, b"x" * 100_000),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 x\r\nX: " + b"y" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n",
        http(200, bomb, "Content-Encoding: gzip"),
    ):
        _spoil_a_poll(attacker, saying(answer))
    _spoil_a_poll(attacker, _endless)
    assert _peak_kib(victim.agent.process.pid) < small + 48 * 1024
    victim.does_an_honest_job()
    slow = "/jobs/job-slow/csr"
    wait_until("the slow answer is given up", lambda: _count(attacker, slow) > 1, 75)
    assert victim.agent.process.log.read_text().count("Traceback") == 0


def _spoil_a_poll(attacker: Attacker, trick: object) -> None:
    """Spoil one poll and see the next two go well, so that pauses between tries stay short."""
    attacker.trick("/work", trick)  # type: ignore[arg-type]
    wait_until("the trick is played", lambda: not any(route == "/work" for route, _ in attacker.answers.tricks))
    attacker.await_polls(2)


def _count(attacker: Attacker, path: str) -> int:
    return sum(path in request.path for request in attacker.answers.requests)


async def _endless(_request: Request) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(2048):
        yield b"100000\r\n" + b" " * (1 << 20) + b"\r\n"


async def _dripping(_request: Request) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    for _ in range(1000):
        yield b" "
        await asyncio.sleep(0.5)


def _peak_kib(pid: int) -> int:
    """Return the most memory that a process ever had, in KiB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


class Elsewhere(Listener):
    """Where redirects point: notes that somebody came."""

    visits: int = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Note it."""
        self.visits += 1
        await reader.read(1 << 16)
        writer.write(http(200, b"{}"))


def test_redirects_are_not_followed(stage: Stage, victim: Victim) -> None:
    """On every route, to another host that would be trusted and to plain HTTP: nobody comes, no token travels."""
    attacker = victim.attacker
    trusted = Elsewhere(stage.folder / "elsewhere", attacker.ca)
    plain = Elsewhere(stage.folder / "plain", plain=True)
    with listening(trusted), listening(plain):
        for elsewhere in (trusted, plain):
            for status in (301, 302, 303, 307, 308):
                _spoil_a_poll(attacker, saying(_redirect(status, elsewhere)))
            for number, route in enumerate(("/csr", "/result", "/nonce", "/token")):
                attacker.trick(route, saying(_redirect(307, elsewhere)))
                if number > 1:  # who is told that its token has run out asks for a new one
                    attacker.trick("/work", saying(http(401, UNAUTHENTICATED)))
                victim.does_an_honest_job()
                wait_until(f"{route} is tried", lambda: attacker.answers.tricks == [])
    assert (trusted.visits, plain.visits) == (0, 0)
    bearers = {request.headers.get("authorization", "") for request in attacker.answers.requests}
    assert bearers == {"", f"Bearer {BEARER}"}


def _redirect(status: int, elsewhere: Elsewhere) -> bytes:
    return http(status, b"", f"Location: {elsewhere.url}/api/v1/agents/ag-1/work")


@pytest.mark.parametrize("agent_id", ["", "../../../x", "ag-x\r\nX: y", "ag-x/../../y", "ag-x?y", "a" * 100_000])
def test_an_enrollment_gives_no_name_that_is_a_path(stage: Stage, agent_id: str) -> None:
    """What the coordinator calls an agent becomes part of every path it asks for: odd names stop the start."""
    with listening(Attacker(stage.folder / "attacker", agent_id)) as attacker:
        agent = stage.unstarted_agent("edge", attacker, f"allowed_paths = [{toml_string(stage.folder / 'live')}]\n")
        agent.process.start()
        assert agent.process.wait(30) == 2
        assert "is not an agent's id" in agent.process.tail(2)
        assert agent.agent_id == ""
