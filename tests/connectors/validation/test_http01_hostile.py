"""http-01 against servers that mean harm: none reaches what it may not, takes longer than it may, or shows too much."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import anyio
import msgspec
import pytest
from anyio.abc import AnyByteSendStream

from connectors.validation.service import Failed, Settings, Validator
from tests.connectors.validation.nameserver import Says, nameserver, zone
from tests.connectors.validation.web import Answers, redirects, says, web
from tests.connectors.validation.world import KEY_AUTHORIZATION, LOOPBACK, asked

pytestmark = pytest.mark.anyio

QUICK_S = 0.5


async def failure(answers: Answers, **changed: object) -> Failed:
    """Return how a validation fails whose server answers like this."""
    async with web(answers) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        settings = Settings(resolvers=(names.address,), http_port=server.port, allowed_networks=LOOPBACK)
        with pytest.raises(Failed) as caught:
            await Validator(replace(settings, **changed)).validate(asked("http-01", "a.test"))  # type: ignore[arg-type]
    return caught.value


async def test_a_body_without_end() -> None:
    """Reading stops at 16 KiB; a server that sends on is left alone."""
    sent = 0

    async def endless(_head: str, stream: AnyByteSendStream) -> None:
        nonlocal sent
        await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            sent += 1024

    failed = await failure(endless)
    assert (failed.type, "more than 16384 bytes" in failed.detail) == ("incorrectResponse", True)
    assert sent < 64 * 1024 * 1024
    assert len(failed.evidence.answer) <= 200


async def test_a_body_of_the_limit_and_one_byte_more() -> None:
    """White space counts as what it is: bytes."""
    padding = " " * (16 * 1024 - len(KEY_AUTHORIZATION))
    assert "more than 16384" in (await failure(says(KEY_AUTHORIZATION + padding + " "))).detail
    async with web(says(KEY_AUTHORIZATION + padding)) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        settings = Settings(resolvers=(names.address,), http_port=server.port, allowed_networks=LOOPBACK)
        await Validator(settings).validate(asked("http-01", "a.test"))


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_drip(start: bytes) -> None:
    """One byte at a time ends with the deadline, before the head, in it and after it."""

    async def drip(_head: str, stream: AnyByteSendStream) -> None:
        await stream.send(start)
        while True:
            await stream.send(b"a")
            await anyio.sleep(0.01)

    began = time.monotonic()
    failed = await failure(drip, deadline_s=QUICK_S)
    assert (failed.type, time.monotonic() - began < 5) == ("connection", True)
    assert "no end within 0.5 s, while asking 127.0.0.1" in failed.detail


async def test_silence_after_the_connection() -> None:
    async def silent(_head: str, _stream: AnyByteSendStream) -> None:
        await anyio.sleep_forever()

    assert "no end within" in (await failure(silent, deadline_s=QUICK_S)).detail


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_answers_that_are_not_http(answer: bytes) -> None:
    """Every one is a failure of the validation, with something to do."""

    async def garbage(_head: str, stream: AnyByteSendStream) -> None:
        await stream.send(answer)

    failed = await failure(garbage)
    assert failed.type in {"connection", "incorrectResponse"}
    assert ";" in failed.detail


async def test_a_compressed_body_is_not_unpacked() -> None:
    """No bomb goes off, and nothing but the bytes themselves is compared."""
    failed = await failure(says(b"\x1f\x8b" + b"\0" * 100, "200 OK", "Content-Encoding: gzip"))
    assert failed.type == "incorrectResponse"


async def test_what_does_not_print_is_escaped_and_cut() -> None:
    """A wrong answer shows 200 printable characters at most: no controls, no page of somebody's intranet."""
    failed = await failure(says(b"\x1b[2J\r\n\xff" + b"A" * 5000))
    assert failed.evidence.answer.startswith(r"\x1b[2J\r\n\xff")
    assert len(failed.evidence.answer) == 200
    assert failed.evidence.answer.isprintable()
    assert len(failed.detail) < 1000


async def test_a_loop_of_redirects() -> None:
    """Ten are followed, the eleventh is not."""
    asked_for = list[str]()

    async def loop(head: str, stream: AnyByteSendStream) -> None:
        asked_for.append(head)
        await says("", "302 Found", f"Location: /{'x' * 300}/{len(asked_for)}")(head, stream)

    failed = await failure(loop)
    assert (failed.type, len(asked_for), len(failed.evidence.redirects)) == ("connection", 11, 11)
    assert "more than 10 times" in failed.detail
    assert len(msgspec.json.encode(failed.evidence)) < 3000


async def test_the_tenth_redirect_is_followed() -> None:
    async def chain(head: str, stream: AnyByteSendStream) -> None:
        step = int(head.split(" ")[1][1:]) if head.startswith("GET /1") or head[5].isdigit() else 0
        more = says("", "302 Found", f"Location: /{step + 1}")
        await (says(KEY_AUTHORIZATION) if step == 10 else more)(head, stream)

    async with web(chain) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        settings = Settings(resolvers=(names.address,), http_port=server.port, allowed_networks=LOOPBACK)
        evidence = await Validator(settings).validate(asked("http-01", "a.test"))
    assert len(evidence.redirects) == 10


@pytest.mark.parametrize(
    "to,why",
    [
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("http://[fd00:ec2::254]/latest/", "metadata"),
        ("http://[::ffff:169.254.169.254]/", "metadata"),
        ("http://[::ffff:a9fe:a9fe]/", "metadata"),
        ("http://[64:ff9b::169.254.169.254]/", "metadata"),
        ("http://10.0.0.1:8080/", "only ports"),
        ("http://a.test:22/", "only ports"),
        ("http://0.0.0.0/", "unspecified"),
        ("http://[::]/", "unspecified"),
        ("http://224.0.0.1/", "multicast"),
        ("http://[fe80::1]/", "link-local"),
        ("http://2130706433/", "no place"),
        ("http://0x7f.1/", "no place"),
        ("http://127.1/", "no place"),
        ("http://0177.0.0.1/", "no place"),
        ("http://[fe80::1%25lo]/", "no place"),
        ("file:///etc/passwd", "only http|no place"),
        ("ftp://a.test/", "only http"),
        ("gopher://a.test:70/", "only http"),
        ("http:///nowhere", "more than 10 times"),
        ("http://", "more than 10 times|no place"),
        ("http://[::1", "no place"),
        ("http://a b/", "no place"),
        ("http://xn--a/", "no place"),
        ("http://a..b/", "no place"),
        (f"http://{'a' * 64}.test/", "no place"),
        ("http://a.test:99999/", "only ports"),
        ("http://a.test:x/", "no place"),
        ("\xe9\xff://", "more than 10 times|no place"),
        ("mailto:a@b.test", "only http|no place"),
    ],
)
async def test_redirects_that_are_not_followed(to: str, why: str) -> None:
    """The place is told; nothing that it or its messenger says is kept."""
    failed = await failure(redirects(to), allowed_networks=(*LOOPBACK, ip_network("169.254.0.0/16")))
    assert failed.type == "connection"
    assert any(part in failed.detail for part in why.split("|")), failed.detail
    assert "secret of the refused" not in str(msgspec.json.encode(failed.evidence)) + failed.detail
    assert set(failed.evidence.addresses) == {"127.0.0.1"}


async def test_a_redirect_to_a_name_that_lies_inside() -> None:
    """Every hop is resolved and checked for itself."""

    def says_what(name: str, kind: str) -> list[str]:
        return {("a.test", "A"): ["127.0.0.2"], ("inside.test", "A"): ["127.0.0.1"]}.get((name, kind), [])

    async with outside_and_inside(says_what, redirects("http://inside.test/")) as (settings, inside):
        with pytest.raises(Failed, match=r"inside\.test is not asked, since 127\.0\.0\.1 is a loopback"):
            await Validator(settings).validate(asked("http-01", "a.test"))
    assert inside == []


@asynccontextmanager
async def outside_and_inside(names: Says, outside: Answers) -> AsyncIterator[tuple[Settings, list[str]]]:
    """Run a server that may be asked, at 127.0.0.2, and one that may not, at 127.0.0.1; give what the latter saw."""
    async with (
        web(outside, "127.0.0.2") as allowed,
        web(says(KEY_AUTHORIZATION), "127.0.0.1", allowed.port) as inside,
        nameserver(names) as server,
    ):
        network = ip_network("127.0.0.2/32")
        yield (
            Settings(resolvers=(server.address,), http_port=allowed.port, allowed_networks=(network,)),
            inside.requests,
        )


def rebinding() -> Says:
    """Return what a DNS server says that points outside once, and inside from then on."""
    addresses: Iterator[str] = iter(["127.0.0.2"])
    return lambda _name, kind: [next(addresses, "127.0.0.1")] if kind == "A" else []


async def test_rebinding_does_not_lead_inside() -> None:
    """The address that was checked is the one that is dialled: nothing asks the DNS again."""
    async with outside_and_inside(rebinding(), says(KEY_AUTHORIZATION)) as (settings, inside):
        evidence = await Validator(settings).validate(asked("http-01", "a.test"))
    assert (evidence.addresses, inside) == (("127.0.0.2",), [])


async def test_rebinding_between_redirects_does_not_lead_inside() -> None:
    """The second hop asks the DNS again, and checks again."""
    async with outside_and_inside(rebinding(), redirects("http://a.test/again")) as (settings, inside):
        with pytest.raises(Failed, match="loopback"):
            await Validator(settings).validate(asked("http-01", "a.test"))
    assert inside == []


async def test_an_address_inside_among_good_ones_is_left_out() -> None:
    """Also when it would come first."""
    async with outside_and_inside(zone(A=["127.0.0.1", "127.0.0.2"], AAAA=["::1"]), says(KEY_AUTHORIZATION)) as (
        settings,
        inside,
    ):
        evidence = await Validator(settings).validate(asked("http-01", "a.test"))
    assert (evidence.addresses, inside) == (("127.0.0.2",), [])


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name for itself."""
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.3:9")
    async with web(says(KEY_AUTHORIZATION)) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        settings = Settings(resolvers=(names.address,), http_port=server.port, allowed_networks=LOOPBACK)
        await Validator(settings).validate(asked("http-01", "a.test"))
