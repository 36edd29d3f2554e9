"""The ACME servers that are measured: certctl on a PostgreSQL that keeps every commit, Pebble, step-ca."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trustme
from anyio.from_thread import start_blocking_portal

from benchmarks.fleet.measure import running_in
from benchmarks.lab.fleet import Coordinator
from benchmarks.lab.processes import REPOSITORY, Process, free_ports, stopped_at_the_end
from coordinator.database import driver
from coordinator.database.embedded import EmbeddedPostgres

_BUILT = REPOSITORY / ".cache" / "acme"
_COUNTING = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "top"}
_STATEMENTS = """SELECT sum(calls)::bigint FROM pg_stat_statements
  WHERE query NOT LIKE '%pg_stat_statements%' AND query NOT LIKE '%pg_notify%'"""


@dataclass(frozen=True)
class Server:
    """One that runs: its directories and the roots of their HTTPS, its processes at present by what they are."""

    places: Sequence[tuple[str, Path]]
    processes: Callable[[], dict[str, list[int]]]
    statements: Callable[[], int] = field(default=lambda: 0)
    """How many statements the database was asked since it was started, BEGIN and COMMIT included; where it counts.

    Wake-ups for other replicas are left out: they go in batches over a connection of their own.
    """


class Places(Protocol):
    """Where an authority looks for answers to challenges, and whom it asks for names."""

    @property
    def http_port(self) -> int:
        """Return the port that http-01 is looked for at."""

    @property
    def dns_port(self) -> int:
        """Return the port of the resolver."""


def program(name: str) -> str | None:
    """Return a program, what make built before what the system has."""
    built = _BUILT / name
    return str(built) if built.exists() else shutil.which(name)


@contextmanager
def certctl(folder: Path, answers: Places | None, *, counting: bool = False, coordinators: int = 1) -> Iterator[Server]:
    """Run coordinators on one database; they prove names by ``answers``, or without any trust their accounts."""
    settings = {"max_wal_size": "4GB", **(_COUNTING if counting else {})}
    embedded, cluster = EmbeddedPostgres(folder / "database", settings=settings), folder / "database" / "postgres"
    with start_blocking_portal("asyncio") as portal:
        dsn = portal.call(embedded.start)

        counter = portal.call(driver.connect, dsn, {}) if counting else None
        if counter is not None:
            portal.call(counter.execute, "CREATE EXTENSION pg_stat_statements")
        key = {"CERTCTL_CONFIG_ENCRYPTION_KEY": secrets.token_hex(24)}
        environment = {"CERTCTL_DATABASE_URL": dsn, **key, **_environment(answers)}
        running = [Coordinator(folder / f"coordinator-{number}", environment) for number in range(coordinators)]
        try:
            with stopped_at_the_end([each.process for each in running]):
                for each in running:
                    each.start()
                yield Server(
                    [(f"{each.url}/acme/directory", each.ca_path) for each in running],
                    lambda: {
                        "coordinator": [each.process.pid for each in running],
                        "PostgreSQL": running_in(cluster),
                    },
                    lambda: int(portal.call(counter.fetchval, _STATEMENTS)) if counter else 0,
                )
        finally:
            if counter is not None:
                portal.call(counter.close)
            portal.call(embedded.stop)


def _environment(answers: Places | None) -> dict[str, str]:
    every = {
        "CERTCTL_LOG_LEVEL": "error",
        "CERTCTL_ACME_SERVER_ENABLED": "true",
        "CERTCTL_ACME_SERVER_RATE_LIMIT_ORDERS_PER_HOUR": "0",
        "CERTCTL_ACME_SERVER_RATE_LIMIT_SAME_NAMES_PER_HOUR": "0",
        "CERTCTL_ACME_SERVER_RATE_LIMIT_CONCURRENT_ORDERS": "0",
    }
    if answers is None:
        return {**every, "CERTCTL_ACME_SERVER_ALLOW_OPEN_TRUST": "true"}
    return {
        **every,
        "CERTCTL_ACME_SERVER_DEFAULT_AUTH_MODE": "challenge",
        "CERTCTL_ACME_SERVER_ALLOWED_NETWORKS": "127.0.0.0/8",
        "CERTCTL_ACME_SERVER_DNS01_RESOLVER": f"127.0.0.1:{answers.dns_port}",
        "CERTCTL_ACME_SERVER_HTTP01_PORT": str(answers.http_port),
    }


@contextmanager
def pebble(folder: Path, answers: Places | None) -> Iterator[Server]:
    """Run Pebble, all in memory; it proves names by ``answers``, or without any believes every challenge."""
    port, management = free_ports(2)
    authority, ca = trustme.CA(), folder / "pebble-root.pem"
    own = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(ca)
    own.private_key_pem.write_to_path(folder / "pebble.key")
    own.cert_chain_pems[0].write_to_path(folder / "pebble.pem")
    life_s = 90 * 86_400
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(folder / "pebble.pem"),
        "privateKey": str(folder / "pebble.key"),
        "httpPort": answers.http_port if answers else 80,
        "certificateValidityPeriod": life_s,
        "profiles": {"default": {"description": "", "validityPeriod": life_s}},
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    argv = [program("pebble") or "", "-config", str(folder / "pebble.json")]
    quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    if answers is None:
        quick["PEBBLE_VA_ALWAYS_VALID"] = "1"
    else:
        argv += ["-dnsserver", f"127.0.0.1:{answers.dns_port}"]
    with _running(Process("pebble", argv, folder / "pebble.log", quick), port) as processes:
        yield Server([(f"https://localhost:{port}/dir", ca)], processes)


@contextmanager
def step_ca(folder: Path, answers: Places | None) -> Iterator[Server]:
    """Run step-ca on badger, its own database in one process; it proves names by ``answers``."""
    assert answers is not None
    (port,) = free_ports(1)
    authority = trustme.CA()
    below = authority.create_child_ca()
    authority.cert_pem.write_to_path(folder / "root.pem")
    below.cert_pem.write_to_path(folder / "ca.pem")
    below.private_key_pem.write_to_path(folder / "ca.key")
    config = {
        "root": str(folder / "root.pem"),
        "crt": str(folder / "ca.pem"),
        "key": str(folder / "ca.key"),
        "address": f"127.0.0.1:{port}",
        "dnsNames": ["localhost"],
        "logger": {"format": "json"},
        "db": {"type": "badgerv2", "dataSource": str(folder / "database")},
        "authority": {"provisioners": [{"type": "ACME", "name": "acme"}]},
    }
    (folder / "ca.json").write_text(json.dumps(config))
    argv = [program("step-ca") or "", str(folder / "ca.json")]
    argv += ["--insecure", f"--acme-http-port={answers.http_port}", f"--resolver=127.0.0.1:{answers.dns_port}"]
    with _running(Process("step-ca", argv, folder / "step-ca.log", {"STEPPATH": str(folder)}), port) as processes:
        yield Server([(f"https://localhost:{port}/acme/acme/directory", folder / "root.pem")], processes)


@contextmanager
def _running(process: Process, port: int) -> Iterator[Callable[[], dict[str, list[int]]]]:
    with stopped_at_the_end([process]):
        process.start().await_ready(lambda: _listens(port))
        yield lambda: {process.name: [process.pid]}


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), timeout=1).close()
    except OSError:
        return False
    return True
