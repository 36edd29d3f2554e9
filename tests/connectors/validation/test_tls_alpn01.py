"""tls-alpn-01 against the real challenge server, and against certificates and handshakes that are wrong in one way."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute
from cryptography import x509

from benchmarks.lab.processes import free_ports
from connectors.validation.service import Evidence, Failed, Validator
from core.acme import ID_PE_ACME_IDENTIFIER, alpn_extension
from tests.connectors.validation.handshakes import GOOD, Pair, context_of, handshaker, make
from tests.connectors.validation.nameserver import nameserver, zone
from tests.connectors.validation.serving import beside
from tests.connectors.validation.world import KEY_AUTHORIZATION, ChallengeServer, asked

pytestmark = pytest.mark.anyio


async def validate(challenges: ChallengeServer, pair: Pair, name: str = "a.test") -> Evidence:
    """Validate a name whose server shows the pair."""
    async with handshaker(context_of(pair)) as (port, _):
        return await Validator(challenges.settings(tls_port=port)).validate(asked("tls-alpn-01", name))


async def test_the_real_challenge_server_is_believed(challenges: ChallengeServer) -> None:
    challenges.tell("add-tlsalpn01", host="tls.test", content=KEY_AUTHORIZATION)
    evidence = await Validator(challenges.settings()).validate(asked("tls-alpn-01", "tls.test"))
    assert evidence.addresses == ("127.0.0.1",)
    assert evidence.answer == "ALPN acme-tls/1, certificate for DNS:tls.test"


async def test_the_real_challenge_server_with_another_key_authorization(challenges: ChallengeServer) -> None:
    challenges.tell("add-tlsalpn01", host="other.test", content=KEY_AUTHORIZATION + "x")
    with pytest.raises(Failed, match="wrong digest") as caught:
        await Validator(challenges.settings()).validate(asked("tls-alpn-01", "other.test"))
    assert caught.value.type == "incorrectResponse"


async def test_the_real_challenge_server_knows_nothing_of_the_name(challenges: ChallengeServer) -> None:
    with pytest.raises(Failed) as caught:
        await Validator(challenges.settings()).validate(asked("tls-alpn-01", "unknown.test"))
    assert caught.value.type in {"tls", "incorrectResponse"}


@pytest.mark.parametrize(
    "name,host,sni",
    [
        ("a.test", "127.0.0.1", "a.test"),
        ("127.0.0.1", "127.0.0.1", "1.0.0.127.in-addr.arpa"),
        ("::1", "::1", "1." + "0." * 31 + "ip6.arpa"),
    ],
)
async def test_the_name_is_asked_for_by_sni(
    challenges: ChallengeServer, tmp_path: Path, name: str, host: str, sni: str
) -> None:
    """An address by its reverse name, and its certificate names the address (RFC 8738 section 6)."""
    async with handshaker(context_of(make(tmp_path, name)), host) as (port, names):
        await Validator(challenges.settings(tls_port=port)).validate(asked("tls-alpn-01", name))
    assert names == [sni]


async def test_letters_of_either_case(challenges: ChallengeServer, tmp_path: Path) -> None:
    assert (await validate(challenges, make(tmp_path, "A.Test"))).answer.endswith("DNS:a.test")


@pytest.mark.parametrize("names", [(), ("a.test", "b.test"), ("b.test",), ("127.0.0.1",), ("a@a.test",), ("*.a.test",)])
async def test_other_names(challenges: ChallengeServer, tmp_path: Path, names: tuple[str, ...]) -> None:
    """No name, a second one, another one, one of another kind."""
    with pytest.raises(Failed, match=r"has to name a\.test there, and nothing else") as caught:
        await validate(challenges, make(tmp_path, *names))
    assert caught.value.type == "incorrectResponse"


async def test_an_address_as_a_dns_name(challenges: ChallengeServer, tmp_path: Path) -> None:
    """A DNS name that reads like an address is not that address."""
    pair = make(tmp_path, "1.0.0.127.in-addr.arpa")
    with pytest.raises(Failed, match="has to name 127"):
        await validate(challenges, pair, "127.0.0.1")


@pytest.mark.parametrize(
    "extension,critical,text",
    [
        (None, True, "lacks the extension"),
        (GOOD, False, "not critical"),
        (alpn_extension(KEY_AUTHORIZATION + "x"), True, "wrong digest"),
        (x509.UnrecognizedExtension(ID_PE_ACME_IDENTIFIER, GOOD.value + b"\0"), True, "wrong digest"),
        (x509.UnrecognizedExtension(ID_PE_ACME_IDENTIFIER, GOOD.value[2:]), True, "wrong digest"),
        (x509.UnrecognizedExtension(ID_PE_ACME_IDENTIFIER, b""), True, "wrong digest"),
    ],
)
async def test_wrong_extensions(
    challenges: ChallengeServer, tmp_path: Path, extension: x509.ExtensionType | None, critical: bool, text: str
) -> None:
    with pytest.raises(Failed, match=text) as caught:
        await validate(challenges, make(tmp_path, "a.test", extension=extension, critical=critical))
    assert caught.value.type == "incorrectResponse"


async def test_a_certificate_that_another_key_signed(challenges: ChallengeServer, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="not signed by its own key"):
        await validate(challenges, make(tmp_path, "a.test", signed_by_itself=False))


@pytest.mark.parametrize(
    "names",
    [b"\x30\x07\x87\x05\x01\x02\x03\x04\x05", b"\x30\x09\xa5\x07\xa1\x05\x0c\x03abc"],
    ids=["five octets", "ediPartyName"],
)
async def test_a_certificate_that_cannot_be_read(challenges: ChallengeServer, tmp_path: Path, names: bytes) -> None:
    """Its subjectAltName holds an address of five octets, or a kind of name that nobody uses."""
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, names)
    with pytest.raises(Failed, match="cannot be read") as caught:
        await validate(challenges, make(tmp_path, extension=broken))
    assert caught.value.type == "incorrectResponse"


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("acme-tls/1.1", "acme-tls"), ("h2", "http/1.1")])
async def test_another_protocol(challenges: ChallengeServer, tmp_path: Path, protocols: tuple[str, ...]) -> None:
    """A server that ignores ALPN is an ordinary one, whose certificates somebody else may have put there."""
    async with handshaker(context_of(make(tmp_path, "a.test"), protocols)) as (port, _):
        with pytest.raises(Failed, match="acme-tls/1") as caught:
            await Validator(challenges.settings(tls_port=port)).validate(asked("tls-alpn-01", "a.test"))
    assert caught.value.type == "tls"


async def test_acme_tls_among_other_protocols(challenges: ChallengeServer, tmp_path: Path) -> None:
    """As web servers offer it that do this challenge by themselves."""
    async with handshaker(context_of(make(tmp_path, "a.test"), ("h2", "acme-tls/1"))) as (port, _):
        await Validator(challenges.settings(tls_port=port)).validate(asked("tls-alpn-01", "a.test"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
async def test_tls_before_1_2_is_not_spoken(
    challenges: ChallengeServer, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """The same server is believed from TLS 1.2 on (RFC 8737 section 3)."""
    context = context_of(make(tmp_path, "a.test"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with handshaker(context) as (port, _):
        assert await old_client(port) == version.name.replace("_", ".")
        validation = Validator(challenges.settings(tls_port=port)).validate(asked("tls-alpn-01", "a.test"))
        if version is ssl.TLSVersion.TLSv1_2:
            await validation
            return
        with pytest.raises(Failed, match="handshake") as caught:
            await validation
    assert caught.value.type == "tls"


async def old_client(port: int) -> str:
    """Return which version of TLS a client gets that takes any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    stream = await anyio.connect_tcp("127.0.0.1", port, ssl_context=context)
    version = stream.extra(TLSAttribute.tls_version)
    await anyio.aclose_forcefully(stream)
    return version


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28"])
async def test_what_is_no_tls(challenges: ChallengeServer, greeting: bytes) -> None:
    async def greet(stream: SocketStream) -> None:
        async with stream:
            await stream.send(greeting)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        beside(partial(listener.serve, greet)),
    ):
        settings = challenges.settings(tls_port=listener.extra(SocketAttribute.local_port))
        with pytest.raises(Failed) as caught:
            await Validator(settings).validate(asked("tls-alpn-01", "a.test"))
    assert caught.value.type == "tls"
    assert greeting or "the connection ended" in caught.value.detail


async def test_a_server_that_says_nothing(challenges: ChallengeServer) -> None:
    """A connection without a handshake ends in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = challenges.settings(tls_port=silent.getsockname()[1], connect_s=0.2)
        with pytest.raises(Failed, match="no answer in time") as caught:
            await Validator(settings).validate(asked("tls-alpn-01", "a.test"))
    assert caught.value.type == "tls"


async def test_nobody_listens(challenges: ChallengeServer) -> None:
    settings = challenges.settings(tls_port=free_ports(1)[0])
    with pytest.raises(Failed, match=r"not reached at port \d+: 127\.0\.0\.1: .*; let its TLS server") as caught:
        await Validator(settings).validate(asked("tls-alpn-01", "a.test"))
    assert caught.value.type == "connection"


async def test_ipv4_is_asked_when_ipv6_does_not_connect(challenges: ChallengeServer, tmp_path: Path) -> None:
    async with (
        handshaker(context_of(make(tmp_path, "a.test"))) as (port, _),
        nameserver(zone(A=["127.0.0.1"], AAAA=["::1"])) as names,
    ):
        settings = challenges.settings(tls_port=port, resolvers=(names.address,))
        evidence = await Validator(settings).validate(asked("tls-alpn-01", "a.test"))
    assert evidence.addresses == ("::1", "127.0.0.1")


async def test_loopback_is_not_asked_unless_allowed(challenges: ChallengeServer, tmp_path: Path) -> None:
    async with handshaker(context_of(make(tmp_path, "a.test"))) as (port, names):
        settings = challenges.settings(tls_port=port, allowed_networks=())
        with pytest.raises(Failed, match="loopback"):
            await Validator(settings).validate(asked("tls-alpn-01", "a.test"))
    assert names == []
