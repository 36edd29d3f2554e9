"""The least that the framework can do over TLS, on the coordinator's own server settings: what figures are shares of."""

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

    bound = socket.create_server(("127.0.0.1", int(port)))
    bound.setblocking(False)  # noqa: FBT003 - the socket's own signature
    servers = [(serving.server(app, context), bound)]
    asyncio.run(serving.serve_until_stopped(servers, on_stop=lambda: None, on_reload=lambda: None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
