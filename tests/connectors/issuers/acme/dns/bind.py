"""A real DNS server: BIND with zones that take signed updates, on one address of the loopback network."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rrset

from benchmarks.lab.processes import Process
from connectors.issuers.acme.dns.rfc2136 import RFC2136Config, TSIGAlgorithm
from core.secret import Secret

NAMED = shutil.which("named", path="/usr/sbin:/usr/bin:/usr/local/sbin")
KEYS = {str(algorithm): base64.b64encode(algorithm.encode() * 3).decode() for algorithm in TSIGAlgorithm}
READER = "reader"
HEAD = "$TTL 1\n@ IN SOA ns.example.test. a.example.test. 1 60 60 60 1\n"


class Bind:
    """One server. ``zones`` are the records of each zone beside its SOA."""

    def __init__(self, folder: Path, address: str, port: int, zones: Mapping[str, str]) -> None:
        assert NAMED is not None, "named is needed for these tests: apt-get install bind9"
        folder.mkdir()
        self.address, self.port = address, port
        secrets = KEYS | {READER: KEYS["hmac-sha256"]}
        keys = "".join(
            f'key "{name}" {{ algorithm {name if name in KEYS else "hmac-sha256"}; secret "{secret}"; }};\n'
            for name, secret in secrets.items()
        )
        writers = "".join(f'key "{name}"; ' for name in KEYS)
        options = (
            f'directory "{folder}"; listen-on port {port} {{ {address}; }}; listen-on-v6 {{ none; }}; recursion yes; '
            f'pid-file "{folder}/named.pid"; session-keyfile "{folder}/session.key"; dnssec-validation no; '
            f"empty-zones-enable no; notify no;"
        )
        text = f"{keys}options {{ {options} }};\ncontrols {{}};\n"
        for zone, records in zones.items():
            (folder / f"{zone}.db").write_text(HEAD + records)
            text += f'zone "{zone}" {{ type primary; file "{folder}/{zone}.db"; allow-update {{ {writers}}}; }};\n'
        (folder / "named.conf").write_text(text)
        argv = [NAMED, "-g", "-n", "1", "-c", str(folder / "named.conf")]
        self.process = Process("named", argv, folder / "named.log")
        self._zone = next(iter(zones))

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process.start()
        self.process.await_ready(lambda: bool(self.records(self._zone, "SOA")))

    def records(self, name: str, kind: str = "TXT") -> list[str]:
        """Return the records of a name, sorted."""
        query = dns.message.make_query(name, kind)
        try:
            answer = dns.query.udp(query, self.address, port=self.port, timeout=2)
        except (dns.exception.Timeout, OSError):
            return []
        return sorted(record.to_text().strip('"') for rrset in answer.answer for record in rrset)

    def config(self, algorithm: TSIGAlgorithm = TSIGAlgorithm.HMAC_SHA256, **changes: object) -> RFC2136Config:
        """Return how it is written to."""
        fields = {
            "server": self.address,
            "port": self.port,
            "key_name": str(algorithm),
            "key_algorithm": algorithm,
            "key_secret": Secret(KEYS[str(algorithm)]),
        }
        return RFC2136Config(**{**fields, **changes})  # type: ignore[arg-type]  # each test gives the right types


class Lagging:
    """Another server of a zone, on an address that BIND would have to be given first; it says what it is told to."""

    def __init__(self, address: str, port: int) -> None:
        self.values: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, port))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, sender = self._socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            if self.values:
                texts = [f'"{value}"' for value in self.values]
                answer.answer.append(dns.rrset.from_text(query.question[0].name, 1, "IN", "TXT", *texts))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), sender)
