"""What a coordinator looks at in challenge mode: a real challenge server for DNS, a web server and a TLS server."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.lab.processes import Process, free_ports
from tests.coordinator.acme.client import Client


@dataclass
class Net:
    """Let's Encrypt's test server for DNS, a web server and a TLS server of our own."""

    dns_port: int
    manage_port: int
    http_port: int
    tls_port: int
    pages: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = field(default_factory=dict)

    tls: list[ssl.SSLContext] = field(default_factory=list)

    def set(self, what: str, **body: Any) -> None:
        httpx.post(f"http://127.0.0.1:{self.manage_port}/{what}", json=body).raise_for_status()

    def txt(self, name: str, value: str) -> None:
        self.set("set-txt", host=f"{name}.", value=value)

    def serve(self, token: str, text: str) -> None:
        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.end_headers()
            request.wfile.write(text.encode())

        self.pages[f"/.well-known/acme-challenge/{token}"] = answer


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Net]:
    """Run the three of them."""
    dns, manage, web, tls = free_ports(4)
    argv = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
    argv += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{manage}"]
    process = Process("challtestsrv", argv, folder / "log")
    found = Net(dns, manage, web, tls)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = found.pages.get(self.path)
            if page is None:
                self.send_error(404)
            else:
                page(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", web), Handler)
    listener = socket.create_server(("127.0.0.1", tls))
    threads = [
        threading.Thread(target=server.serve_forever),
        threading.Thread(target=_shake_hands, args=(listener, found)),
    ]
    for thread in threads:
        thread.start()
    try:
        process.start().await_ready(lambda: _answers(found))
        yield found
    finally:
        server.shutdown()
        server.server_close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()
        process.stop()


def _shake_hands(listener: socket.socket, net: Net) -> None:
    """Do handshakes with whatever certificate is wanted now, until the listener is shut down."""
    with contextlib.suppress(OSError):
        while True:
            raw, _ = listener.accept()
            raw.settimeout(5)
            with contextlib.suppress(OSError), raw:
                net.tls[0].wrap_socket(raw, server_side=True).close()


def _answers(net: Net) -> bool:
    with contextlib.suppress(httpx.TransportError):
        net.txt("ready.test", "yes")
        return True
    return False


def settings(net: Net) -> dict[str, str]:
    """Return the variables of a coordinator that asks them."""
    return {
        "CERTCTL_ACME_SERVER_ENABLED": "true",
        "CERTCTL_ACME_SERVER_DEFAULT_AUTH_MODE": "challenge",
        "CERTCTL_ACME_SERVER_DNS01_RESOLVER": f"127.0.0.1:{net.dns_port}",
        "CERTCTL_ACME_SERVER_HTTP01_PORT": str(net.http_port),
        "CERTCTL_ACME_SERVER_TLSALPN01_PORT": str(net.tls_port),
        "CERTCTL_ACME_SERVER_ALLOWED_NETWORKS": "127.0.0.0/8",
        "CERTCTL_ACME_SERVER_RATE_LIMIT_CONCURRENT_ORDERS": "0",
    }


async def challenge(client: Client, name: str, kind: str) -> tuple[str, dict[str, Any], str]:
    """Return the order's URL, one of its challenges and the key authorization."""
    made = await client.order(name)
    assert made.status_code == 201, made.text
    authorization = (await client.post(made.json()["authorizations"][0])).json()
    (found,) = [each for each in authorization["challenges"] if each["type"] == kind]
    return made.headers["location"], found, f"{found['token']}.{client.key.thumbprint()}"


async def outcome(client: Client, order: str, found: dict[str, Any]) -> dict[str, Any]:
    """Say that it is prepared; return the challenge as it ended, with ``order`` as the order's status."""
    begun = await client.post(found["url"], {})
    assert begun.json()["status"] == "processing", begun.text
    assert int(begun.headers["retry-after"]) >= 1
    assert any('rel="up"' in link for link in begun.headers.get_list("link"))
    for task in list(client.world.ctx.validations.tasks):
        await task
    ended = (await client.post(found["url"])).json()
    return {**ended, "order": (await client.post(order)).json()["status"]}
