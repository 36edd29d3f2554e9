"""Plays every case that clients and a server can, and says what came of it.

Usage: ``make acme-clients`` or, for some clients, ``make acme-clients ARGS='lego uacme'``.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.journeys.acme import certctl
from tests.journeys.acme.certctl import CertctlServer
from tests.journeys.acme.matrix import every_client, pairwise, whole
from tests.journeys.acme.page import keep
from tests.journeys.acme.pebble import NewPebble, PebbleServer, serving
from tests.journeys.acme.play import OK, Row, Serving, played, row
from tests.journeys.acme.server import Server

SERVERS: dict[str, tuple[type[Server], Serving]] = {
    "certctl": (CertctlServer, certctl.serving),
    "pebble": (PebbleServer, functools.partial(serving, PebbleServer)),
    "newpebble": (NewPebble, functools.partial(serving, NewPebble)),
}


def main(argv: Sequence[str]) -> int:
    """Play what a command line says; exit code 1 when a case failed."""
    parser = argparse.ArgumentParser(prog="make acme-clients", description=__doc__)
    parser.add_argument("clients", nargs="*", help="clients by name; default: all")
    parser.add_argument("--server", choices=SERVERS, default=next(iter(SERVERS)))
    parser.add_argument("--pairwise", action="store_true", help="only the selection that the tests play")
    parser.add_argument("--page", type=Path, help="a page to write the results to, with JSON beside it")
    asked = parser.parse_args(argv)
    kind, starting = SERVERS[asked.server]
    players = [client for client in every_client() if not asked.clients or client.name in asked.clients]
    cases = whole(players, kind.can, kind.spares)
    rows = list[Row]()
    with played(starting, pairwise(cases) if asked.pairwise else cases) as (server, results):
        for case, result in results.items():
            rows.append(row(server, case, result))
            sys.stdout.write(f"{case.title:<75} {rows[-1].seconds:>5} {rows[-1].outcome}\n")
            sys.stdout.flush()
    if asked.page:
        keep(rows, asked.page)
    return 1 if any(each.outcome != OK for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
