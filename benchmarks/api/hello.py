"""The least that the framework does over TLS, with the coordinator's own server: what figures are shares of."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys

from quart import Quart

from coordinator import serving


def main() -> int:
    """Serve ``hello`` on a port with a certificate and its key, until a signal comes."""
    port, certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = Quart("hello", static_folder=None)

    @app.get("/")
    async def hello() -> str:
        return "hello"

    # asyncio switches Nagle's algorithm off for sockets that say that they are TCP.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", int(port)))
    bound.listen()
    bound.settimeout(0)
    servers = [(serving.server(app, context), bound)]
    asyncio.run(serving.serve_until_stopped(servers, on_stop=lambda: None, on_reload=lambda: None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
