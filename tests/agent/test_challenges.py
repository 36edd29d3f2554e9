"""Answers to ACME challenges on real ports: shown to whoever asks for them, and to nobody once they are over."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from cryptography import x509

from agent.challenges import Answers
from agent.policy import Challenges, HostPolicy
from benchmarks.lab.processes import free_ports
from core.acme import ALPN_PROTOCOL, HTTP_01, ID_PE_ACME_IDENTIFIER, TLS_ALPN_01, alpn_extension
from core.names import parse_name
from core.wire import ChallengeItem, ChallengeReport, Receipt

ASYNC = pytest.mark.trio
NAME = parse_name("www.example.test")


class Client:
    """A coordinator that remembers what it is told."""

    def __init__(self) -> None:
        self._tell, self.told = trio.open_memory_channel[ChallengeReport](10)

    async def report_challenge(self, challenge_id: str, report: ChallengeReport) -> Receipt:
        assert challenge_id.startswith("cch-")
        await self._tell.send(report)
        return Receipt(report.state)


class Stand:
    """An agent's answers with ports of their own."""

    def __init__(self, nursery: trio.Nursery, client: Client, **challenges: Any) -> None:
        self._nursery, self.client = nursery, client
        policy = HostPolicy(challenges=Challenges(**challenges))
        self.answers = Answers(client, lambda: policy, trio.Event())  # type: ignore[arg-type]  # all that it calls

    async def take(self, item: ChallengeItem) -> ChallengeReport:
        self.answers.take(item, self._nursery)
        with trio.fail_after(10):
            return await self.client.told.receive()


@asynccontextmanager
async def stand(http: int, tls: int, **allowed: Any) -> AsyncIterator[Stand]:
    async with trio.open_nursery() as nursery:
        yield Stand(nursery, Client(), http=f"127.0.0.1:{http}", tls=f"127.0.0.1:{tls}", **allowed)
        nursery.cancel_scope.cancel()


def item(kind: str, token: str = "token", **changes: Any) -> ChallengeItem:
    fields: dict[str, Any] = {"challenge_id": f"cch-{token}", "type": kind, "name": NAME, "token": token}
    return ChallengeItem(**{**fields, "key_authorization": f"{token}.thumb", **changes})


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@ASYNC
async def test_http_answers_are_there_until_the_last_one_is_over() -> None:
    http, tls = free_ports(2)
    url = f"http://127.0.0.1:{http}/.well-known/acme-challenge"
    async with stand(http, tls) as place, httpx.AsyncClient(trust_env=False) as client:
        assert not is_open(http)
        assert await place.take(item(HTTP_01, "one")) == ChallengeReport("shown", where=f"http at 127.0.0.1:{http}")
        await place.take(item(HTTP_01, "two"))
        assert (await client.get(f"{url}/one", headers={"Host": str(NAME)})).text == "one.thumb"
        head = await client.head(f"{url}/two")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "9")
        for wrong in (f"{url}/three", f"{url}/", f"http://127.0.0.1:{http}/one"):
            assert (await client.get(wrong)).status_code == 404
        assert (await client.post(f"{url}/one")).status_code == 404
        assert await place.take(item(HTTP_01, "one", over=True)) == ChallengeReport("gone")
        assert (await client.get(f"{url}/one")).status_code == 404
        await place.take(item(HTTP_01, "two", over=True))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not is_open(http)


@ASYNC
async def test_a_client_that_says_nothing_or_nonsense_keeps_nobody_from_an_answer() -> None:
    http, tls = free_ports(2)
    async with stand(http, tls) as place, httpx.AsyncClient(trust_env=False) as client:
        await place.take(item(HTTP_01))
        silent = [socket.create_connection(("127.0.0.1", http)) for _ in range(5)]
        silent[0].sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        answer = await client.get(f"http://127.0.0.1:{http}/.well-known/acme-challenge/token")
        assert answer.text == "token.thumb"
        for each in silent:
            each.close()


@ASYNC
async def test_tls_shows_the_certificate_to_who_speaks_the_protocol_and_names_the_name() -> None:
    http, tls = free_ports(2)
    async with stand(http, tls) as place:
        assert await place.take(item(TLS_ALPN_01)) == ChallengeReport("shown", where=f"tls at 127.0.0.1:{tls}")
        leaf = await trio.to_thread.run_sync(shake, tls, str(NAME))
        found = leaf.extensions.get_extension_for_oid(ID_PE_ACME_IDENTIFIER)
        assert found.critical
        assert found.value == alpn_extension("token.thumb")
        with pytest.raises(ssl.SSLError):
            await trio.to_thread.run_sync(shake, tls, "other.example.test")
        await place.take(item(TLS_ALPN_01, over=True))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not is_open(tls)


def shake(port: int, name: str) -> x509.Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ALPN_PROTOCOL])
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with plain, context.wrap_socket(plain, server_hostname=name) as spoken:
        assert spoken.selected_alpn_protocol() == ALPN_PROTOCOL
        return x509.load_der_x509_certificate(spoken.getpeercert(binary_form=True) or b"")


@ASYNC
async def test_a_port_that_another_program_has_is_told_with_the_remedy() -> None:
    http, tls = free_ports(2)
    with socket.create_server(("127.0.0.1", http)):
        async with stand(http, tls) as place:
            report = await place.take(item(HTTP_01))
    assert report.state == "failed"
    assert "another program listens there" in report.problem
    assert "[challenges] http" in report.problem


@ASYNC
async def test_a_challenge_of_tomorrow_is_refused() -> None:
    http, tls = free_ports(2)
    async with stand(http, tls) as place:
        report = await place.take(item("http-99"))
    assert (report.state, "http-99" in report.problem) == ("failed", True)


@ASYNC
async def test_a_name_that_the_host_does_not_allow_is_refused_and_no_port_opened() -> None:
    http, tls = free_ports(2)
    async with stand(http, tls, allowed_names=("*.example.net", "10.0.0.0/8")) as place:
        report = await place.take(item(HTTP_01))
        assert not is_open(http)
        named = {"www.example.net": "shown", "example.net": "failed", "10.1.2.3": "shown", "11.1.2.3": "failed"}
        for place_in_list, (name, state) in enumerate(named.items()):
            told = await place.take(item(HTTP_01, str(place_in_list), name=parse_name(name)))
            assert told.state == state
    assert report.state == "failed"
    assert "add the name to allowed_names of [challenges]" in report.problem


def test_every_name_is_allowed_without_a_word() -> None:
    assert all(Challenges().allow(parse_name(text)) for text in ("a.b.c.test", "test", "192.0.2.1", "2001:db8::1"))
    assert not Challenges(allowed_names=()).allow(NAME)
    with pytest.raises(ValueError, match=r"allowed_names: 'a b'"):
        Challenges(allowed_names=("a b",))


@pytest.mark.parametrize("text", ["80", "host", ":0", ":70000", "a b:80", "::1:80", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="http: is no address"):
        Challenges(http=text)


@pytest.mark.parametrize(
    "text, parts", [(":80", (None, 80)), ("127.0.0.1:8402", ("127.0.0.1", 8402)), ("[::1]:81", ("::1", 81))]
)
def test_addresses_are_read(text: str, parts: tuple[str | None, int]) -> None:
    assert Challenges.parts(text) == parts
