"""A small TLS server for machines without nginx: serves one certificate per name, loads them again on SIGHUP.

    python -m benchmarks.lab.tlsserver serve FOLDER    until SIGTERM
    python -m benchmarks.lab.tlsserver check FOLDER    exit 1 when a pair cannot be loaded
    python -m benchmarks.lab.tlsserver reload FOLDER   tell the running one

FOLDER/sites.json says {"port": …, "sites": {name: [certificate file, key file]}}. A reload that fails keeps what is
served.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from pathlib import Path


def load(folder: Path) -> tuple[int, dict[str, ssl.SSLContext]]:
    """Return port and contexts; raise ``OSError`` (``ssl.SSLError`` is one) or ``ValueError`` for a bad file."""
    wanted = json.loads((folder / "sites.json").read_text())
    contexts = {}
    for name, (certificate, key) in wanted["sites"].items():
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts[name].load_cert_chain(certificate, key)
    return wanted["port"], contexts


async def serve(folder: Path) -> None:
    """Serve until SIGTERM."""
    port, contexts = load(folder)
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def reload() -> None:
        nonlocal contexts
        try:
            _, contexts = load(folder)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"reload failed: {error}\n")

    def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = contexts.get(name or "", next(iter(contexts.values())))

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.sni_callback = choose
    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await asyncio.start_server(answer, "127.0.0.1", port, ssl=front)
    (folder / "server.pid").write_text(str(os.getpid()))
    await stopped.wait()


def main(command: str, folder: Path) -> int:
    """Run one of the three commands."""
    if command == "serve":
        asyncio.run(serve(folder))
    elif command == "reload":
        os.kill(int((folder / "server.pid").read_text()), signal.SIGHUP)
    else:
        try:
            load(folder)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"check failed: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
