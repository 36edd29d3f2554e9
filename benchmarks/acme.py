"""How many certificates a second ACME clients get, and how long each takes: order, authorization, finalize, download.

Each client has an account and keeps one connection. certctl is measured in trust mode on PostgreSQL with every commit
on the disk; Pebble, all in memory and believing every challenge, with the same client in the same run. Clients,
servers and database share the machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme
from anyio.from_thread import start_blocking_portal
from joserfc import jws
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from benchmarks.lab.fleet import JSON, Coordinator
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end
from benchmarks.lab.results import save, summary, table
from coordinator.database.embedded import EmbeddedPostgres
from core import acme
from core.csr import build_csr
from core.keys import KeyAlgorithm, generate
from core.names import parse_name

GOAL_RATE, GOAL_P99_MS = 100.0, 200.0
_REGISTRY = JWSRegistry({name: HeaderParameter(name, "str") for name in ("nonce", "url")}, ["ES256"])
_WAITS = frozenset({"pending", "processing"})
_POLL_S = 0.005


class Client:
    """An account and its connection; ``requests`` counts what it has asked."""

    def __init__(self, directory_url: str, ca: Path, number: int) -> None:
        parts = urlsplit(directory_url)
        context = ssl.create_default_context(cafile=ca)
        self._http = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context, timeout=60)
        self._key, self._kid, self._nonce = ECKey.generate_key("P-256"), "", ""
        self._tls_key, self._number, self._count = generate(KeyAlgorithm.ECDSA_P256), number, 0
        self.requests = 0
        self._directory = json.loads(self._ask("GET", directory_url)[1])
        self._ask("HEAD", self._directory["newNonce"])
        self._kid = self._post(self._directory["newAccount"], {"termsOfServiceAgreed": True})[0]["Location"]

    def _ask(self, method: str, url: str, body: bytes = b"") -> tuple[Any, bytes]:
        self.requests += 1
        headers = {"Content-Type": "application/jose+json"} if body else {}
        self._http.request(method, urlsplit(url).path, body or None, headers)
        response = self._http.getresponse()
        content = response.read()
        self._nonce = response.headers.get("Replay-Nonce", self._nonce)
        assert response.status < http.client.BAD_REQUEST, content
        return response.headers, content

    def _post(self, url: str, payload: dict[str, Any] | None = None) -> tuple[Any, bytes]:
        who = {"kid": self._kid} if self._kid else {"jwk": self._key.as_dict(private=False)}
        header = {"alg": "ES256", "nonce": self._nonce, "url": url, **who}
        plain = b"" if payload is None else json.dumps(payload).encode()
        protected, body, signature = jws.serialize_compact(header, plain, self._key, registry=_REGISTRY).split(".")
        return self._ask(
            "POST", url, json.dumps({"protected": protected, "payload": body, "signature": signature}).encode()
        )

    def flow(self) -> None:
        """Get one certificate."""
        self._count += 1
        name = f"n{self._count}.c{self._number}.example.test"
        headers, content = self._post(self._directory["newOrder"], {"identifiers": [{"type": "dns", "value": name}]})
        order, url = json.loads(content), headers["Location"]
        for each in order["authorizations"]:
            authorization = json.loads(self._post(each)[1])
            if authorization["status"] == "pending":
                self._post(authorization["challenges"][0]["url"], {})
        order = self._until(url, order, {"ready"})
        csr = build_csr(self._tls_key, "", (parse_name(name),))
        order = json.loads(self._post(order["finalize"], {"csr": acme.encode(csr)})[1])
        self._post(self._until(url, order, {"valid"})["certificate"])

    def _until(self, url: str, order: JSON, wanted: set[str]) -> JSON:
        while order["status"] not in wanted:
            assert order["status"] in _WAITS, order
            time.sleep(_POLL_S)
            order = json.loads(self._post(url)[1])
        return order


@dataclass
class Measured:
    """What some clients saw in so many seconds."""

    times_ms: list[float] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0


def measure(directory_url: str, ca: Path, clients: int, seconds: float) -> Measured:
    """Let clients get certificates, each one after another."""
    made = [Client(directory_url, ca, number) for number in range(clients)]
    found, lock, end = Measured(), threading.Lock(), time.perf_counter() + seconds

    def work(client: Client) -> None:
        asked = client.requests
        while time.perf_counter() < end:
            began = time.perf_counter()
            client.flow()
            passed = (time.perf_counter() - began) * 1000
            with lock:
                found.times_ms.append(passed)
        with lock:
            found.requests += client.requests - asked

    threads = [threading.Thread(target=work, args=(client,)) for client in made]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.perf_counter() - began
    return found


@contextmanager
def certctl(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run a coordinator on a database that keeps every commit; yield its directory and its root."""
    embedded = EmbeddedPostgres(folder / "database", settings={"max_wal_size": "4GB"})
    with start_blocking_portal("asyncio") as portal:
        dsn = portal.call(embedded.start)
        env = {
            "CERTCTL_DATABASE_URL": dsn,
            "CERTCTL_LOG_LEVEL": "error",
            "CERTCTL_ACME_SERVER_ENABLED": "true",
            "CERTCTL_ACME_SERVER_ALLOW_OPEN_TRUST": "true",
            "CERTCTL_ACME_SERVER_RATE_LIMIT_ORDERS_PER_HOUR": "0",
            "CERTCTL_ACME_SERVER_RATE_LIMIT_CONCURRENT_ORDERS": "0",
        }
        coordinator = Coordinator(folder / "coordinator", env)
        try:
            with stopped_at_the_end([coordinator.process]):
                coordinator.start()
                yield f"{coordinator.url}/acme/directory", coordinator.ca_path
        finally:
            portal.call(embedded.stop)


@contextmanager
def pebble(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run Pebble, which believes every challenge."""
    port, management = free_ports(2)
    authority, ca = trustme.CA(), folder / "pebble-root.pem"
    own = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(ca)
    own.private_key_pem.write_to_path(folder / "pebble.key")
    own.cert_chain_pems[0].write_to_path(folder / "pebble.pem")
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(folder / "pebble.pem"),
        "privateKey": str(folder / "pebble.key"),
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    process = Process("pebble", ["pebble", "-config", str(folder / "pebble.json")], folder / "pebble.log", quick)
    with stopped_at_the_end([process]):
        process.start().await_ready(lambda: _listens(port))
        yield f"https://localhost:{port}/dir", ca


def _listens(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("localhost", port, timeout=1)
        connection.connect()
        connection.close()
    except OSError:
        return False
    return True


def main() -> int:
    """Measure; exit code 1 when a goal was not met."""
    parser = argparse.ArgumentParser(prog="make bench-acme", description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--pebble-clients", type=int, default=4, help="at 10 it has hung")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="certctl-bench-acme-"))
    found = dict[str, Measured]()
    try:
        for name, server, clients in (
            ("certctl", certctl, options.clients),
            ("Pebble", pebble, options.pebble_clients),
        ):
            if name == "Pebble" and shutil.which("pebble") is None:
                continue
            (folder / name).mkdir()
            with server(folder / name) as (directory_url, ca):
                found[name] = measure(directory_url, ca, clients, options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tell(found)


def tell(found: dict[str, Measured]) -> int:
    """Write table and JSON."""
    rows = {name: summary(each.times_ms) for name, each in found.items()}
    rates = {name: len(each.times_ms) / each.seconds for name, each in found.items()}
    asked = {name: each.requests / len(each.times_ms) for name, each in found.items()}
    met = {"rate": rates["certctl"] >= GOAL_RATE, "p99": rows["certctl"]["p99"] <= GOAL_P99_MS}
    sys.stdout.write(table(rows, "ms a certificate") + "\n")
    for name, rate in rates.items():
        share = f", {rate / rates['Pebble']:.2f} of Pebble" if "Pebble" in rates and name != "Pebble" else ""
        sys.stdout.write(f"{name:24}{rate:9.0f} certificates/s, {asked[name]:.1f} requests each{share}\n")
    words = {name: "met" if good else "NOT met" for name, good in met.items()}
    sys.stdout.write(f"goals: {GOAL_RATE:.0f}/s {words['rate']}, p99 {GOAL_P99_MS:.0f} ms {words['p99']}\n")
    sys.stdout.write(f"{save('acme', {'ms': rows, 'rates': rates, 'requests': asked, 'goals_met': met})}\n")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
