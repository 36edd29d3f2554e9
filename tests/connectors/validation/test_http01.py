"""http-01 against the real challenge server and servers that answer well: what is asked, of whom, and what counts."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from socket import gethostname

import dns.rcode
import msgspec
import pytest
import trustme
from anyio.abc import AnyByteSendStream

from benchmarks.lab.processes import free_ports
from connectors.validation.service import Evidence, Failed, Settings, Validator
from tests.connectors.validation.nameserver import nameserver, zone
from tests.connectors.validation.web import redirects, says, web
from tests.connectors.validation.world import KEY_AUTHORIZATION, LOOPBACK, PATH, TOKEN, ChallengeServer, asked

pytestmark = pytest.mark.anyio


async def test_the_real_challenge_server_is_believed(challenges: ChallengeServer) -> None:
    """The evidence says what was asked, of which address and resolver, and what came back."""
    challenges.tell("add-http01", token=TOKEN, content=KEY_AUTHORIZATION)
    evidence = await Validator(challenges.settings()).validate(asked("http-01", "web.test"))
    assert evidence.addresses == ("127.0.0.1",)
    assert evidence.resolvers == (f"127.0.0.1:{challenges.ports.dns}",)
    assert evidence.asked == f"http://web.test:{challenges.ports.http}{PATH}"
    assert evidence.answer == KEY_AUTHORIZATION
    assert (evidence.challenge, evidence.name, evidence.source) == ("http-01", "web.test", gethostname())
    assert timedelta() <= datetime.now(UTC) - evidence.at < timedelta(minutes=1)
    assert 0 <= evidence.elapsed_ms < 30_000
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence


async def test_the_real_challenge_server_says_nothing_of_an_unknown_token(challenges: ChallengeServer) -> None:
    with pytest.raises(Failed, match="answered '' and not") as caught:
        await Validator(challenges.settings()).validate(asked("http-01", "web.test", token="another"))
    assert caught.value.type == "incorrectResponse"


async def test_a_real_redirect_to_https_is_followed_without_verification(challenges: ChallengeServer) -> None:
    """As Boulder does: the certificate is not what is looked at."""
    token, port = "redirected", challenges.ports.http
    challenges.tell("add-http01", token=token, content=f"{token}.{KEY_AUTHORIZATION.split('.')[1]}")
    challenges.tell(
        "add-redirect",
        path=f"/.well-known/acme-challenge/{token}",
        targetURL=f"https://other.test:{challenges.ports.https}/.well-known/acme-challenge/{token}",
    )
    settings = challenges.settings(tls_port=challenges.ports.https)
    evidence = await Validator(settings).validate(asked("http-01", "web.test", token=token))
    assert evidence.redirects == (f"https://other.test:{challenges.ports.https}/.well-known/acme-challenge/{token}",)
    assert evidence.addresses == ("127.0.0.1", "127.0.0.1")
    assert port != challenges.ports.https


@pytest.mark.parametrize(
    "name,bind,host",
    [("127.0.0.1", "127.0.0.1", "127.0.0.1"), ("::1", "::1", "[::1]"), ("a.test", "127.0.0.1", "a.test")],
)
async def test_the_header_host_is_the_name(challenges: ChallengeServer, name: str, bind: str, host: str) -> None:
    """An address is asked as it is, and an IPv6 one stands in brackets (RFC 8738 section 4)."""
    async with web(says(KEY_AUTHORIZATION), bind) as server:
        await Validator(challenges.settings(http_port=server.port)).validate(asked("http-01", name))
    assert f"\r\nHost: {host}\r\n" in server.requests[0]
    assert server.requests[0].startswith(f"GET {PATH} HTTP/1.1\r\n")


async def test_white_space_after_the_key_authorization_is_taken(challenges: ChallengeServer) -> None:
    async with web(says(KEY_AUTHORIZATION + " \r\n\n")) as server:
        await Validator(challenges.settings(http_port=server.port)).validate(asked("http-01", "a.test"))


@pytest.mark.parametrize("body", [" " + KEY_AUTHORIZATION, KEY_AUTHORIZATION + "x", KEY_AUTHORIZATION[:-1], "", TOKEN])
async def test_another_body_is_not_taken(challenges: ChallengeServer, body: str) -> None:
    async with web(says(body)) as server:
        with pytest.raises(Failed, match="and not") as caught:
            await Validator(challenges.settings(http_port=server.port)).validate(asked("http-01", "a.test"))
    assert caught.value.type == "incorrectResponse"


@pytest.mark.parametrize("status", ["201 Created", "203 Other", "404 Not Found", "500 Broken", "302 Found", "304 Same"])
async def test_no_other_status_is_taken(challenges: ChallengeServer, status: str) -> None:
    """The right body does not help; a redirect that leads nowhere is none."""
    async with web(says(KEY_AUTHORIZATION, status)) as server:
        with pytest.raises(Failed) as caught:
            await Validator(challenges.settings(http_port=server.port)).validate(asked("http-01", "a.test"))
    assert caught.value.type in {"incorrectResponse", "connection"}


@pytest.mark.parametrize("to", ["/moved?x=1#part", "//other.test/moved?x=1", "moved?x=1"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(challenges: ChallengeServer, to: str, status: int) -> None:
    """Relative ones too; query and path go along, the fragment does not."""
    first = ["GET /.well-known/acme-challenge/moved?x=1 " if to == "moved?x=1" else "GET /moved?x=1 "]
    answers = {PATH.split("/")[-1]: redirects(to, status=status)}

    async def answer(head: str, stream: AnyByteSendStream) -> None:
        how = answers.get(head.split(" ")[1].rsplit("/", maxsplit=1)[-1], says(KEY_AUTHORIZATION))
        await how(head, stream)

    async with web(answer) as server:
        await Validator(challenges.settings(http_port=server.port)).validate(asked("http-01", "a.test"))
    assert server.requests[1].startswith(first[0])
    assert "\r\nHost: other.test\r\n" in server.requests[1] or "//" not in to


async def test_a_redirect_to_https_names_the_host_by_sni(challenges: ChallengeServer) -> None:
    """A server of many names shows the right one; the certificate is by whom it may."""
    seen = list[str | None]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("elsewhere.test").configure_cert(context)
    context.sni_callback = lambda _connection, name, _context: seen.append(name)
    async with web(says(KEY_AUTHORIZATION), context=context) as secure, web(redirects("https://b.test/x")) as plain:
        settings = challenges.settings(http_port=plain.port, tls_port=secure.port)
        await Validator(settings).validate(asked("http-01", "a.test"))
    assert seen == ["b.test"]
    assert "\r\nHost: b.test\r\n" in secure.requests[0]


async def test_ipv6_comes_first(challenges: ChallengeServer) -> None:
    """With an address of each kind the IPv6 one is asked, and the other is not when it answers."""
    async with (
        web(says(KEY_AUTHORIZATION), "::1") as six,
        web(says("wrong"), "127.0.0.1", six.port) as four,
        nameserver(zone(A=["127.0.0.1"], AAAA=["::1"])) as names,
    ):
        settings = challenges.settings(http_port=six.port, resolvers=(names.address,))
        evidence = await Validator(settings).validate(asked("http-01", "a.test"))
    assert (evidence.addresses, four.requests) == (("::1",), [])


async def test_ipv4_is_asked_when_ipv6_does_not_connect(challenges: ChallengeServer) -> None:
    async with web(says(KEY_AUTHORIZATION)) as four, nameserver(zone(A=["127.0.0.1"], AAAA=["::1"])) as names:
        settings = challenges.settings(http_port=four.port, resolvers=(names.address,))
        evidence = await Validator(settings).validate(asked("http-01", "a.test"))
    assert evidence.addresses == ("::1", "127.0.0.1")


async def test_an_answer_over_ipv6_is_the_answer(challenges: ChallengeServer) -> None:
    """Falling back is for connections, not for answers that nobody wanted."""
    async with (
        web(says("wrong"), "::1") as six,
        web(says(KEY_AUTHORIZATION), "127.0.0.1", six.port) as four,
        nameserver(zone(A=["127.0.0.1"], AAAA=["::1"])) as names,
    ):
        settings = challenges.settings(http_port=six.port, resolvers=(names.address,))
        with pytest.raises(Failed, match="wrong"):
            await Validator(settings).validate(asked("http-01", "a.test"))
    assert four.requests == []


async def test_the_addresses_of_a_majority_count(challenges: ChallengeServer) -> None:
    """One resolver that lies does not send anybody elsewhere; two that disagree send nobody anywhere."""
    async with (
        web(says(KEY_AUTHORIZATION)) as server,
        nameserver(zone(A=["127.0.0.9", "127.0.0.1"])) as liar,
        nameserver(zone(A=["127.0.0.1"])) as one,
        nameserver(zone(A=["127.0.0.1"])) as two,
        nameserver(zone(A=["127.0.0.8"])) as other,
    ):
        resolvers = liar.address, one.address, two.address
        settings = challenges.settings(http_port=server.port, resolvers=resolvers)
        evidence = await Validator(settings).validate(asked("http-01", "a.test"))
        assert evidence.addresses == ("127.0.0.1",)
        settings = replace(settings, resolvers=(one.address, other.address))
        with pytest.raises(Failed, match="do not agree") as caught:
            await Validator(settings).validate(asked("http-01", "a.test"))
    assert (caught.value.type, caught.value.evidence.addresses) == ("dns", ())


async def test_nobody_listens() -> None:
    """Each address is named with what it said."""
    async with nameserver(zone(A=["127.0.0.1"], AAAA=["::1"])) as names:
        settings = Settings(resolvers=(names.address,), http_port=free_ports(1)[0], allowed_networks=LOOPBACK)
        with pytest.raises(Failed, match=r"not reached: ::1: .*, 127\.0\.0\.1: .*; let its web server") as caught:
            await Validator(settings).validate(asked("http-01", "a.test"))
    assert caught.value.type == "connection"
    assert caught.value.evidence.addresses == ("::1", "127.0.0.1")


@pytest.mark.parametrize(
    "says_what,text", [([], "no A and no AAAA"), (dns.rcode.NXDOMAIN, "no A and"), (dns.rcode.SERVFAIL, "SERVFAIL")]
)
async def test_a_name_without_addresses(says_what: list[str] | dns.rcode.Rcode, text: str) -> None:
    async with nameserver(lambda _name, _kind: says_what) as names:
        settings = Settings(resolvers=(names.address,), dns_s=1)
        with pytest.raises(Failed, match=text) as caught:
            await Validator(settings).validate(asked("http-01", "a.test"))
    assert caught.value.type == "dns"


async def test_a_private_address_is_asked_and_loopback_is_not_by_default() -> None:
    """An internal authority's names lie in private networks; this one is allowed down to the connection."""
    async with web(says(KEY_AUTHORIZATION)) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        settings = Settings(resolvers=(names.address,), http_port=server.port)
        with pytest.raises(Failed, match="loopback") as caught:
            await Validator(settings).validate(asked("http-01", "a.test"))
        assert (caught.value.type, server.requests) == ("connection", [])
        await Validator(replace(settings, allowed_networks=(ip_network("127.0.0.1/32"),))).validate(
            asked("http-01", "a.test")
        )
