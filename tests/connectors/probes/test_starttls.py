"""STARTTLS with the real Postfix and Dovecot, and with servers that say what they should not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.lab.processes import free_ports
from benchmarks.lab.servers import Site
from connectors.probes.starttls import ProbeProtocol
from connectors.probes.tls import probe
from core.errors import DeadlineExceeded, Transient
from tests.journeys.targets.subjects.dovecot import Dovecot
from tests.journeys.targets.subjects.postfix import Postfix

pytestmark = pytest.mark.anyio

REAL: list[tuple[str, ProbeProtocol]] = [
    ("smtp", "smtp"),
    ("imap", "imap"),
    ("pop3", "pop3"),
    ("lmtp", "lmtp"),
    ("smtps", "tls"),
    ("imaps", "tls"),
    ("pop3s", "tls"),
]


class EveryDovecot(Dovecot):
    """Dovecot with all that it listens with."""

    def write(self, site: Site) -> None:
        """Add POP3 and LMTP."""
        self.pop3, self.pop3s, self.lmtp = free_ports(3)
        super().write(site)
        text = self.conf.read_text().replace("protocols = imap", "protocols = imap pop3 lmtp")
        self.conf.write_text(
            f"{text}service pop3-login {{\n  inet_listener pop3 {{\n    port = {self.pop3}\n  }}\n"
            f"  inet_listener pop3s {{\n    port = {self.pop3s}\n    ssl = yes\n  }}\n}}\n"
            f"service lmtp {{\n  inet_listener lmtp {{\n    port = {self.lmtp}\n  }}\n}}\n"
        )


class Mail:
    """The ports of both servers, and the certificates that they serve."""

    def __init__(self, postfix: Postfix, dovecot: EveryDovecot) -> None:
        self.ports = {
            "smtp": postfix.plain_port,
            "smtps": postfix.port(),
            "imap": dovecot.plain_port,
            "imaps": dovecot.port(),
            "pop3": dovecot.pop3,
            "pop3s": dovecot.pop3s,
            "lmtp": dovecot.lmtp,
        }
        self._postfix, self._dovecot = _fingerprint(postfix.site), _fingerprint(dovecot.site)

    def serves(self, listener: str) -> str:
        return self._postfix if listener.startswith("smtp") else self._dovecot


def _fingerprint(site: Site) -> str:
    return sha256(x509.load_pem_x509_certificate(site.cert_path.read_bytes()).public_bytes(Encoding.DER)).hexdigest()


@pytest.fixture(scope="module")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mail]:
    if os.geteuid() != 0:
        pytest.skip("needs root: Postfix and Dovecot are started by nobody else")
    folder = tmp_path_factory.mktemp("mail")
    (folder / "p").mkdir()
    (folder / "d").mkdir()
    postfix, dovecot = Postfix(folder / "p"), EveryDovecot(folder / "d")
    try:
        postfix.start()
        dovecot.start()
        yield Mail(postfix, dovecot)
    finally:
        for server in (postfix, dovecot):
            server.process.stop()


@pytest.mark.parametrize("listener, protocol", REAL)
async def test_real_servers_show_their_certificate(mail: Mail, listener: str, protocol: ProbeProtocol) -> None:
    seen = await probe("127.0.0.1", mail.ports[listener], sni="shop.example.test", protocol=protocol)
    assert (seen.fingerprint, len(seen.chain)) == (mail.serves(listener), 1)


@pytest.mark.parametrize(
    "listener, protocol, cause",
    [
        ("smtp", "imap", r"does not speak IMAP \(is probe.protocol right\?\), it says: 220 "),
        ("smtp", "lmtp", r"does not speak LMTP .*: 500 "),
        ("imap", "smtp", r"does not speak SMTP .*: \* OK "),
        ("imap", "pop3", r"does not speak POP3 .*: \* OK "),
        ("pop3", "imap", r"does not speak IMAP .*: \+OK "),
        ("lmtp", "smtp", r"does not speak SMTP .*: 500 "),
        ("imap", "tls", r"speaks something else than TLS .*: are port and probe.protocol right\?"),
    ],
)
async def test_a_wrong_protocol_is_named(mail: Mail, listener: str, protocol: ProbeProtocol, cause: str) -> None:
    with pytest.raises(Transient, match=cause):
        await probe("127.0.0.1", mail.ports[listener], protocol=protocol)


async def test_tls_at_once_where_plain_text_was_expected_is_named(mail: Mail) -> None:
    with pytest.raises(DeadlineExceeded, match=r"does it speak IMAP there, or TLS at once \(probe.protocol\)\?"):
        await probe("127.0.0.1", mail.ports["imaps"], protocol="imap", timeout_s=0.3)


@contextmanager
def saying(greeting: bytes, *answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Listen once: greet, give one answer to each line, and close; lend the port and the lines that came."""
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.settimeout(5)
            connection.sendall(greeting)
            for answer in answers:
                heard.append(lines.readline())
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), heard
        finally:
            thread.join(10)


OFFER = b"250-mail.test\r\n250 STARTTLS\r\n"
INJECTED = "sent more in plain text than its consent to TLS: are answers injected on the way"


@pytest.mark.parametrize(
    "protocol, said, cause",
    [
        ("smtp", [b"220 mail.test\r\n", OFFER, b"220 go\r\n250 injected\r\n"], INJECTED),
        ("smtp", [b"220 mail.test\r\n", OFFER, b"220 go\r\n\x16\x03"], INJECTED),
        ("lmtp", [b"220 mail.test\r\n", OFFER, b"220 go\r\n."], INJECTED),
        ("imap", [b"* OK hi\r\n", b"* CAPABILITY STARTTLS\r\nc1 OK\r\n", b"c2 OK\r\n* BYE\r\n"], INJECTED),
        ("pop3", [b"+OK hi\r\n", b"+OK\r\nSTLS\r\n.\r\n", b"+OK\r\n+OK\r\n"], INJECTED),
        ("smtp", [b"220 mail.test\r\n", b"250-mail.test\r\n250 SIZE\r\n"], "offers no STARTTLS: is TLS switched on"),
        ("smtp", [b"220 mail.test\r\n", b"250 STARTTLS\r\n"], "offers no STARTTLS"),
        ("imap", [b"* OK hi\r\n", b"* CAPABILITY IMAP4rev1\r\nc1 OK\r\n"], "offers no STARTTLS"),
        ("pop3", [b"+OK hi\r\n", b"+OK\r\nTOP\r\n.\r\n"], "offers no STLS"),
        ("pop3", [b"+OK hi\r\n", b"-ERR what\r\n"], "offers no STLS"),
        ("smtp", [b"220 mail.test\r\n", OFFER, b"454 not now\r\n"], "refuses STARTTLS: 454 not now"),
        (
            "imap",
            [b"* OK hi\r\n", b"* CAPABILITY STARTTLS\r\nc1 OK\r\n", b"c2 NO never\r\n"],
            "refuses STARTTLS: c2 NO",
        ),
        ("pop3", [b"+OK hi\r\n", b"+OK\r\nSTLS\r\n.\r\n", b"-ERR no\r\n"], "refuses STLS: -ERR no"),
        ("smtp", [b"554-go\r\n554 away\r\n"], "turns SMTP clients away: 554 away"),
        ("imap", [b"* BYE full\r\n"], r"turns IMAP clients away: \* BYE full"),
        ("pop3", [b"-ERR full\r\n"], "turns POP3 clients away: -ERR full"),
        ("imap", [b"* PREAUTH hi\r\n"], "logs clients in before TLS, which rules STARTTLS out"),
        ("smtp", [b"SSH-2.0-x\x1b[2J\r\n"], r"does not speak SMTP .*it says: SSH-2.0-x\?\[2J$"),
        ("smtp", [b"220 mail.test\r\n", b""], "closed the connection before it agreed to TLS"),
        ("imap", [b"* OK hi\r\n", b"* x\r\n" * 20_000], "says more than 64 KiB before it agrees to TLS"),
    ],
)
async def test_what_servers_say_instead_is_told(protocol: ProbeProtocol, said: list[bytes], cause: str) -> None:
    with saying(*said) as (port, _), pytest.raises(Transient, match=f"^127.0.0.1:{port} {cause}"):
        await probe("127.0.0.1", port, protocol=protocol)


async def test_we_name_ourselves_by_our_address() -> None:
    with saying(b"220 mail.test\r\n", b"250 mail.test\r\n") as (port, heard), pytest.raises(Transient):
        await probe("127.0.0.1", port, protocol="smtp")
    assert heard == [b"EHLO [127.0.0.1]\r\n"]


async def test_the_certificates_of_both_differ(mail: Mail) -> None:
    """Or the fingerprints above would prove little."""
    assert mail.serves("smtp") != mail.serves("imap")
