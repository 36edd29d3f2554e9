"""Receivers in threads: an HTTPS one that keeps what is posted, and a mail server that speaks enough of RFC 5321."""

from __future__ import annotations

import base64
import http.server
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trustme


@dataclass
class Posted:
    """What an HTTPS receiver was sent; it answers with the next of ``statuses``, then with 204, after ``delay_s``."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    delay_s: float = 0.0


@contextmanager
def https(authority: trustme.CA) -> Iterator[Posted]:
    """Run a receiver."""
    kept = Posted()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            kept.headers.append(dict(self.headers.items()))
            time.sleep(kept.delay_s)
            self.send_response(kept.statuses.pop(0) if kept.statuses else 204)
            self.send_header("Location", kept.url + "/elsewhere")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = _tls(authority).wrap_socket(server.socket, server_side=True)
    kept.url = f"https://127.0.0.1:{server.server_port}/hook"
    with _running(server):
        yield kept


@dataclass
class Mailbox:
    """What a mail server took, and how: TLS, who logged in, envelope and mail."""

    port: int = 0
    mails: list[tuple[bool, str, str, bytes]] = field(default_factory=list)
    offers_starttls: bool = True
    refuses: str = ""


class Conversation(socketserver.BaseRequestHandler):
    """One client of a mail server; a method for each verb says what is answered."""

    server: MailServer

    def handle(self) -> None:
        """Greet, and answer until the client leaves."""
        self.secure, self.user, self.rcpt = False, "", ""
        if self.server.implicit:
            self.encrypt()
        self.reader = self.request.makefile("rb")
        self.say("220 mail.test")
        while line := self.reader.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            self.say(getattr(self, f"on_{verb.lower()}", lambda _rest: "250 fine")(rest))
            if verb.upper() == "STARTTLS":
                self.reader.close()
                self.encrypt()
                self.reader = self.request.makefile("rb")
            if verb.upper() == "QUIT":
                break
        self.reader.close()
        self.request.close()

    def encrypt(self) -> None:
        self.request, self.secure = self.server.context.wrap_socket(self.request, server_side=True), True

    def say(self, text: str) -> None:
        self.request.sendall(text.encode() + b"\r\n")

    def on_ehlo(self, _rest: str) -> str:
        tls = "250-STARTTLS\r\n" if self.server.kept.offers_starttls and not self.secure else ""
        return f"250-mail.test\r\n{tls}250 AUTH PLAIN"

    def on_starttls(self, _rest: str) -> str:
        return "220 go on"

    def on_auth(self, rest: str) -> str:
        self.user = base64.b64decode(rest.partition(" ")[2]).decode().replace("\0", ":")
        return "235 welcome"

    def on_rcpt(self, rest: str) -> str:
        self.rcpt = rest.partition("<")[2].partition(">")[0]
        return f"550 {self.server.kept.refuses}" if self.server.kept.refuses else "250 fine"

    def on_data(self, _rest: str) -> str:
        self.say("354 go on")
        mail = b""
        while not mail.endswith(b"\r\n.\r\n"):
            mail += self.reader.readline()
        self.server.kept.mails.append((self.secure, self.user, self.rcpt, mail))
        return "250 taken"

    def on_quit(self, _rest: str) -> str:
        return "221 bye"


class MailServer(socketserver.ThreadingTCPServer):
    """A mail server on a free port."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, *, implicit: bool) -> None:
        self.kept, self.context, self.implicit = Mailbox(), context, implicit
        super().__init__(("127.0.0.1", 0), Conversation)
        self.kept.port = self.server_address[1]

    def handle_error(self, *_arguments: object) -> None:
        """A client that does not trust the certificate hangs up."""


@contextmanager
def smtp(authority: trustme.CA, *, implicit: bool = False) -> Iterator[Mailbox]:
    """Run a mail server."""
    server = MailServer(_tls(authority), implicit=implicit)
    with _running(server):
        yield server.kept


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@contextmanager
def _running(server: socketserver.TCPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
