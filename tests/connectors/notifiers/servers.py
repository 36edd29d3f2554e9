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


@contextmanager
def smtp(authority: trustme.CA, *, implicit: bool = False) -> Iterator[Mailbox]:
    """Run a mail server."""
    kept, context = Mailbox(), _tls(authority)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.secure, self.user, self.rcpt = implicit, "", ""
            if implicit:
                self.request = context.wrap_socket(self.request, server_side=True)
            self.reader = self.request.makefile("rb")
            self.say("220 mail.test")
            while line := self.reader.readline():
                if not self.answer(line.decode().strip()):
                    break
            self.reader.close()
            self.request.close()

        def say(self, text: str) -> None:
            self.request.sendall(text.encode() + b"\r\n")

        def answer(self, line: str) -> bool:
            verb = line.split(" ")[0].upper()
            if verb == "EHLO":
                tls = "250-STARTTLS\r\n" if kept.offers_starttls and not self.secure else ""
                self.say(f"250-mail.test\r\n{tls}250 AUTH PLAIN")
            elif verb == "STARTTLS":
                self.say("220 go on")
                self.reader.close()
                self.request, self.secure = context.wrap_socket(self.request, server_side=True), True
                self.reader = self.request.makefile("rb")
            elif verb == "AUTH":
                self.user = base64.b64decode(line.split(" ")[2]).decode().replace("\0", ":")
                self.say("235 welcome")
            elif verb == "RCPT":
                self.rcpt = line.partition("<")[2].partition(">")[0]
                self.say(f"550 {kept.refuses}" if kept.refuses else "250 fine")
            elif verb == "DATA":
                self.say("354 go on")
                mail = b""
                while not mail.endswith(b"\r\n.\r\n"):
                    mail += self.reader.readline()
                kept.mails.append((self.secure, self.user, self.rcpt, mail))
                self.say("250 taken")
            else:
                self.say("221 bye" if verb == "QUIT" else "250 fine")
            return verb != "QUIT"

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

        def handle_error(self, *_arguments: object) -> None:
            """A client that does not trust the certificate hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    kept.port = server.server_address[1]
    with _running(server):
        yield kept


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
