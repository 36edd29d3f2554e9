"""Requests to an authority: trust, deadlines, sizes, nonces; and an authority that takes hardly any nonce."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from benchmarks.lab.processes import free_ports
from connectors.issuers.acme.accounts import Registration, find_or_register
from connectors.issuers.acme.client import Session, session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.orders import new_order
from connectors.issuers.acme.polling import until
from connectors.issuers.acme.transport import Answer, Connection, connected
from core.acme import HTTP_01, URN, decode
from core.clock import ManualClock
from core.csr import build_csr
from core.errors import DeadlineExceeded, Misconfigured, NotFound, Refused, Transient
from core.keys import KeyAlgorithm, generate
from core.names import parse_name
from tests.connectors.issuers.acme.obtaining import obtain
from tests.connectors.issuers.acme.pebble import HTTPAnswers, Pebble
from tests.connectors.issuers.acme.service import Asked, Reply, Service, serving
from tests.connectors.issuers.acme.times import QuickTimer

pytestmark = pytest.mark.anyio
KEY = AccountKey.new()


class Authority:
    """Enough of an authority for one kind of request; the n-th is answered by the n-th reply, the last for ever."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.nonces = 0
        self.url = ""

    def __call__(self, asked: Asked) -> Reply:
        self.nonces += 1
        nonce = {"Replay-Nonce": f"nonce-{self.nonces}"}
        if asked.path == "/dir":
            places = {name: f"{self.url}/{name}" for name in ("newNonce", "newAccount", "newOrder")}
            return Reply(body=places)
        if asked.path == "/newNonce":
            return Reply(headers=nonce)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return Reply(reply.status, reply.body, nonce | reply.headers, reply.delay_s)


def bad_nonce() -> Reply:
    return Reply(400, {"type": URN + "badNonce", "detail": "no"})


def nonce_of(asked: Asked) -> str:
    return str(json.loads(decode(asked.json()["protected"]))["nonce"])


async def post(service: Service, authority: Authority, **options: int) -> Answer:
    authority.url = service.url
    async with session(f"{service.url}/dir", service.connection, **options) as opened:
        return await opened.post(f"{service.url}/thing", {"a": 1}, KEY, what="trying")


async def test_a_request_is_posted_with_a_nonce_and_its_type() -> None:
    authority = Authority(Reply(201, {}, {"Location": "/thing/1", "Retry-After": "7"}))
    with serving(authority) as service:
        answer = await post(service, authority)
        assert answer.location == f"{service.url}/thing/1"
    assert [asked.method + asked.path for asked in service.asked] == ["GET/dir", "HEAD/newNonce", "POST/thing"]
    assert service.asked[2].headers["content-type"] == "application/jose+json"
    assert service.asked[2].headers["user-agent"] == "certctl"
    assert answer.retry_after_s == 7.0


async def test_a_nonce_that_was_not_taken_is_replaced_by_the_answers_own() -> None:
    authority = Authority(bad_nonce(), bad_nonce(), Reply(body={}))
    with serving(authority) as service:
        await post(service, authority)
    posts = [asked for asked in service.asked if asked.method == "POST"]
    assert [nonce_of(asked) for asked in posts] == ["nonce-2", "nonce-3", "nonce-4"]
    assert [asked.method for asked in service.asked].count("HEAD") == 1


async def test_nonces_are_tried_a_bounded_number_of_times() -> None:
    authority = Authority(bad_nonce())
    with serving(authority) as service, pytest.raises(Transient, match="took none of 4 nonces"):
        await post(service, authority, nonce_tries=4)
    assert [asked.method for asked in service.asked].count("POST") == 4


async def test_other_refusals_are_not_tried_again() -> None:
    authority = Authority(Reply(404, {"type": URN + "malformed", "detail": "no"}))
    with serving(authority) as service, pytest.raises(Refused):
        await post(service, authority)
    assert [asked.method for asked in service.asked].count("POST") == 1


async def test_requests_side_by_side_never_share_a_nonce() -> None:
    authority = Authority(Reply(body={}))
    with serving(authority) as service:
        authority.url = service.url
        async with session(f"{service.url}/dir", service.connection) as opened, anyio.create_task_group() as group:

            async def one() -> None:
                for _ in range(5):
                    await opened.post(f"{service.url}/thing", None, KEY, what="trying", kid="k")

            for _ in range(6):
                group.start_soon(one)
    nonces = [nonce_of(asked) for asked in service.asked if asked.method == "POST"]
    assert len(set(nonces)) == len(nonces) == 30
    assert [asked.path for asked in service.asked].count("/dir") == 1


async def test_a_directory_is_read_again_after_an_hour() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    authority = Authority(Reply())
    with serving(authority) as service:
        async with session(f"{service.url}/dir", service.connection, clock=clock) as opened:
            for minutes in (0, 59, 2):
                clock.advance(timedelta(minutes=minutes))
                await opened.directory()
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    "reply,kind,words",
    [
        (Reply(body=b"<html>"), Misconfigured, "is no ACME directory"),
        (Reply(302, headers={"Location": "/other"}), Refused, "leads on to https://.*/other; set the address to that"),
        (Reply(404), NotFound, "404"),
        (Reply(503), Transient, "503"),
        (Reply(body=b" " * 1_100_000), Refused, "more than 1048576 bytes"),
        (Reply(delay_s=0.6), DeadlineExceeded, "did not answer within"),
    ],
)
async def test_what_is_no_directory_is_told(reply: Reply, kind: type[Exception], words: str) -> None:
    with serving(lambda _asked: reply) as service:
        connection = replace(service.connection, timeout_s=0.3)
        async with session(f"{service.url}/dir", connection) as opened:
            with pytest.raises(kind, match=words):
                await opened.directory()


async def test_only_https_with_a_trusted_certificate_is_spoken() -> None:
    authority = Authority(Reply())
    with serving(authority) as service:
        authority.url = service.url
        for connection, words in ((Connection(), "set ca_bundle to its root"), (service.connection, "")):
            async with session(f"{service.url}/dir", connection) as opened:
                if words:
                    with pytest.raises(Transient, match=words):
                        await opened.directory()
                else:
                    await opened.directory()
        async with session(f"{service.url}/dir", Connection(insecure=True)) as opened:
            await opened.directory()
    async with connected(Connection()) as transport:
        for url in ("http://127.0.0.1/dir", "https://[::1/dir", "file:///etc/passwd"):
            with pytest.raises(Misconfigured):
                await transport.send("GET", url)
        with pytest.raises(Transient, match="cannot be reached"):
            await transport.send("GET", f"https://127.0.0.1:{free_ports(1)[0]}/dir")
    with pytest.raises(Misconfigured, match="ca_bundle"):
        Connection(ca_bundle="nothing").context()
    assert not Connection().insecure


@pytest.mark.parametrize(
    "text,seconds", [("", 0), ("12", 12), ("soon", 0), ("-5", 0), ("9" * 30, 604800), ("later", 90), ("earlier", 0)]
)
async def test_the_time_to_wait_is_read_in_both_forms_and_bounded(text: str, seconds: float) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    moments = {"later": timedelta(seconds=90), "earlier": timedelta(seconds=-90)}
    said = format_datetime(clock.now() + moments[text], usegmt=True) if text in moments else text
    with serving(lambda _asked: Reply(headers={"Retry-After": said})) as service:
        async with connected(service.connection, clock) as transport:
            assert (await transport.send("GET", service.url)).retry_after_s == seconds


async def test_links_are_read_by_their_relation() -> None:
    header = '<https://ca.test/a;1>; title="x"; rel="alternate", </b>;rel=alternate,<c>; rel="up index"'
    answer = Answer(200, "https://ca.test/cert/1", {"link": header}, b"", 0.0)
    assert answer.links("alternate") == ("https://ca.test/a;1", "https://ca.test/b")
    assert answer.links("index") == ("https://ca.test/cert/c",)


def looks(*found: tuple[bool | None, float] | Exception) -> Callable[[], Awaitable[tuple[bool | None, float]]]:
    left = list(found)

    async def look() -> tuple[bool | None, float]:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, Exception):
            raise now
        return now

    return look


async def test_waiting_keeps_to_what_the_authority_asks_for_and_ends_in_time() -> None:
    timer = QuickTimer()
    seen = looks((None, 0.0), (None, 9.0), Transient("away", retry_after_s=3.0), Transient("away"), (True, 0.0))
    assert await until(seen, what="waiting", deadline_s=60, timer=timer)
    assert timer.slept[1:3] == [9.0, 3.0]
    assert timer.slept[0] < timer.slept[3] < 3
    timer = QuickTimer()
    with pytest.raises(DeadlineExceeded, match="waiting: not within 100 s: away") as caught:
        await until(looks(Transient("away")), what="waiting", deadline_s=100, timer=timer)
    assert sum(timer.slept) <= 100
    assert max(timer.slept) == 15.0 == caught.value.retry_after_s
    timer = QuickTimer()
    with pytest.raises(DeadlineExceeded) as caught:
        await until(looks((None, 3600.0)), what="waiting", deadline_s=100, timer=timer)
    assert (timer.slept, caught.value.retry_after_s) == ([], 3600.0)
    with pytest.raises(Refused):
        await until(looks(Refused("no")), what="waiting", deadline_s=100, timer=timer)


async def test_an_order_comes_through_although_nine_nonces_of_ten_are_refused(tmp_path: Path) -> None:
    pebble, name = Pebble(tmp_path / "pebble", nonce_reject=90), parse_name("nonces.example.test")
    try:
        pebble.start()
        async with session(pebble.directory_url, pebble.connection, nonce_tries=300) as opened:
            account = await find_or_register(opened, KEY, Registration(terms_agreed=True))
            csr = build_csr(generate(KeyAlgorithm.ECDSA_P256), "", (name,))
            began = time.monotonic()
            await obtain(await new_order(account, (name,)), csr, {HTTP_01: HTTPAnswers(pebble)})
            assert time.monotonic() - began < 60
        assert pebble.asked("POST /") > 12, "with every nonce taken it would be eight"
    finally:
        pebble.stop()
    assert isinstance(opened, Session)
