"""Heads leave the database: to a webhook, to agents with their polls, and back into the check from their files."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import trustme

from coordinator import settings as settings_module
from coordinator import start
from coordinator.agents import watch
from coordinator.audit import heads, sealing, webhook
from coordinator.audit.webhook import Webhook, sign
from coordinator.loops import service as loops
from core import wire
from core.errors import InvalidInput
from core.secret import Secret
from tests.coordinator.database.conftest import until
from tests.coordinator.test_program import environment
from tests.coordinator.trail import note, seal, tamper
from tests.coordinator.world import World, done, open_world, variables

pytestmark = pytest.mark.anyio

SECRET = "<webhook secret>"


class Receiver:
    """An HTTPS server that keeps what it is sent and answers with the next of ``statuses``, then with 204."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        self.statuses: list[int] = []
        self.url = ""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Receiver]:
    authority, kept = trustme.CA(), Receiver()
    (tmp_path / "root.pem").write_bytes(authority.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            kept.signatures.append(self.headers.get("Certctl-Signature", ""))
            self.send_response(kept.statuses.pop(0) if kept.statuses else 204)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    kept.url = f"https://127.0.0.1:{server.server_port}/heads"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


async def test_the_newest_head_is_posted_and_signed(world: World, receiver: Receiver) -> None:
    await seal(world)
    await note(world, "a")
    await seal(world)
    assert world.ctx.trail.head is not None
    told = Webhook(receiver.url, Secret(SECRET))
    assert await told.tell(world.ctx.trail.head) is None
    assert await told.tell(world.ctx.trail.head) is None  # it has it
    (body,) = receiver.bodies
    assert receiver.signatures == [f"sha256={sign(Secret(SECRET), body)}"]
    assert json.loads(body)["number"] == 2
    assert json.loads(body)["head"] == await world.value("SELECT encode(head, 'hex') FROM audit_batches WHERE number=2")


async def test_a_receiver_that_fails_is_asked_less_and_less_often(world: World, receiver: Receiver) -> None:
    await seal(world)
    head = world.ctx.trail.head
    assert head is not None
    told = Webhook(receiver.url, None)
    receiver.statuses = [500, 302, 404]
    assert [await told.tell(head) for _ in range(4)] == [2.0, 4.0, 8.0, None]
    assert len(receiver.bodies) == 4
    assert receiver.signatures == [""] * 4
    away = Webhook("https://127.0.0.1:1/heads", None)
    pauses = [await away.tell(head) for _ in range(12)]
    assert pauses[-1] == webhook.LONGEST_PAUSE_S


async def test_a_receiver_without_a_trusted_certificate_gets_nothing(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seal(world)
    assert world.ctx.trail.head is not None
    monkeypatch.delenv("SSL_CERT_FILE")
    assert await Webhook(receiver.url, None).tell(world.ctx.trail.head) == 2.0
    assert receiver.bodies == []


async def test_the_loops_post_each_head_soon(
    database_url: str, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"CERTCTL_AUDIT_WEBHOOK_URL": receiver.url, "CERTCTL_AUDIT_WEBHOOK_SECRET": SECRET}
    async with open_world(variables(database_url, tmp_path, **settings)) as world:
        running = asyncio.create_task(loops.run(world.ctx))
        await until(lambda: bool(receiver.bodies))
        await world.post("/api/v1/enrollment-tokens")
        sealed = "SELECT count(*) FROM audit_batches"
        await until(lambda: _posted(world, receiver, sealed))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _posted(world: World, receiver: Receiver, sealed: str) -> bool:
    count = await world.value(sealed)
    return bool(count > 1 and json.loads(receiver.bodies[-1])["number"] == count)


async def test_a_poll_brings_the_newest_head_whoever_sealed_it(world: World, tmp_path: Path) -> None:
    agent = await world.agent()
    query = {"boot": agent.boot, "wait": 0}
    before = done(await agent.call("GET", "/work", params=query))
    assert before["audit_head"] is None
    async with open_world(variables(world.dsn, tmp_path / "other")) as other:
        await seal(other)
    running = asyncio.create_task(watch.run(world.ctx))
    await until(lambda: world.ctx.trail.head is not None)
    running.cancel()
    work = msgspec.convert(done(await agent.call("GET", "/work", params=query)), wire.Work)
    assert work.audit_head is not None
    assert work.audit_head.head == await world.value("SELECT encode(head, 'hex') FROM audit_batches")


class OlderWork(msgspec.Struct, frozen=True):
    """``Work`` as an agent of the version before knows it."""

    items: tuple[wire.IssuanceItem | wire.DeploymentItem, ...] = ()
    wait_s: float = 0.0
    spread_s: float = 0.0


def test_either_side_may_be_a_version_older() -> None:
    head = wire.AuditHead(1, "ab" * 32, 1, "k", b"s", datetime(2026, 1, 1, tzinfo=UTC))
    answer = msgspec.json.encode(wire.Work((), 600.0, 0.0, head))
    assert msgspec.json.decode(answer, type=OlderWork).wait_s == 600.0
    older = msgspec.json.encode(OlderWork((), 600.0))
    assert msgspec.json.decode(older, type=wire.Work).audit_head is None


LINE = '{"event": "audit_sealed", "number": %d, "head": "%s", "level": "info"}'


def test_heads_are_read_from_a_log_or_a_file_of_an_agent(tmp_path: Path) -> None:
    file = tmp_path / "heads"
    other = ['{"event": "ready"}', "not JSON", '{"number": 3, "head": "short"}', '{"number": 4, "he']
    file.write_text("\n".join([LINE % (1, "a" * 64), *other, LINE % (2, "b" * 64), LINE % (2, "b" * 64)]))
    assert heads.read_heads(file) == {1: "a" * 64, 2: "b" * 64}


@pytest.mark.parametrize("text", ["", "nothing here", LINE % (1, "a" * 64) + "\n" + LINE % (1, "b" * 64)])
def test_a_file_without_heads_or_with_two_for_one_batch_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "heads").write_text(text)
    with pytest.raises(InvalidInput):
        heads.read_heads(tmp_path / "heads")


def verify(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "coordinator.main", "audit", "verify", *arguments]
    return subprocess.run(argv, env=variables, capture_output=True, text=True, check=False, timeout=60)


async def test_the_command_says_what_it_found_and_with_which_code(
    world: World, database_url: str, tmp_path: Path
) -> None:
    settings = environment(database_url, tmp_path)
    await seal(world)
    await note(world, "a")
    await seal(world)
    await note(world, "later")
    sound = verify(settings)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.startswith("7 events in 2 batches checked; 1 not sealed yet\nnewest head ")
    assert sound.stdout.endswith("\nthe trail is as it was sealed\n")
    (tmp_path / "heads").write_text(LINE % (3, "c" * 64))
    await tamper(world, "UPDATE audit_events SET actor = 'nobody' WHERE resource_id = 'a'")
    unsound = verify(settings, "--json", "--heads", str(tmp_path / "heads"))
    assert unsound.returncode == 1
    verdict = json.loads(unsound.stdout)
    assert verdict["sound"] is False
    assert [(found["kind"], found["batch"]) for found in verdict["findings"]] == [
        ("event changed", 2),
        ("chain cut", 3),
    ]
    assert "NOT as it was sealed: 1 findings" in verify(settings).stdout


@pytest.mark.parametrize("serves", [True, False])
async def test_the_command_checks_an_embedded_server_that_serves_or_rests(tmp_path: Path, serves: bool) -> None:
    own = environment("", tmp_path)
    del own["CERTCTL_DATABASE_URL"]
    async with contextlib.AsyncExitStack() as running:
        async with contextlib.AsyncExitStack() as once:
            ctx = await once.enter_async_context(start.open_context(settings_module.load(own)))
            await sealing.seal(ctx, 60.0)
            if serves:
                running.push_async_exit(once.pop_all())
        ended = await asyncio.to_thread(verify, own)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "in 1 batches checked; 0 not sealed yet" in ended.stdout


@pytest.mark.parametrize("wrong", ["no key", "heads", "key", "database"])
async def test_the_command_says_2_when_it_cannot_check(world: World, tmp_path: Path, wrong: str) -> None:
    await seal(world)
    settings = environment(world.dsn, tmp_path)
    arguments = ["--heads", str(tmp_path / "none")] if wrong == "heads" else []
    if wrong == "key":
        settings["CERTCTL_CONFIG_ENCRYPTION_KEY"] = "another" * 8
    if wrong == "no key":
        del settings["CERTCTL_CONFIG_ENCRYPTION_KEY"]
    if wrong == "database":
        settings["CERTCTL_DATABASE_URL"] = world.dsn.replace("/test_", "/none_")
    ended = verify(settings, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data" / "encryption.key").exists()
