"""Plays all targets through all chapters, and all ACME clients in all cases; writes docs/journeys.md, acme-clients.md.

Usage: ``make journeys`` or, for some targets and clients, ``make journeys ARGS='nginx lego'``; the others keep what
they had. ``caddy`` is both.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from tests.journeys.acme.__main__ import main as play_clients
from tests.journeys.acme.matrix import every_client
from tests.journeys.acme.page import PAGE
from tests.journeys.targets.subject import every_subject
from tests.journeys.targets.whole import main as play_targets


def main() -> int:
    """Play; exit code 1 when anything failed."""
    types, clients = {subject.target_type for subject in every_subject()}, {client.name for client in every_client()}
    parser = argparse.ArgumentParser(prog="make journeys", description=__doc__)
    parser.add_argument("names", nargs="*", help="types of targets, and ACME clients; default: all")
    names = set(parser.parse_args().names)
    if unknown := names - types - clients:
        parser.error(f"there is no {shlex.join(sorted(unknown))}; there are: {shlex.join(sorted(types | clients))}")
    codes = []
    if not names or names & types:
        codes.append(play_targets(sorted(names & types)))
    if not names or names & clients:
        codes.append(play_clients(["--page", str(PAGE), *sorted(names & clients)]))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
