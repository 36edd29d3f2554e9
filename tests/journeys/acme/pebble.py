"""Let's Encrypt's test server in the part of the server: what the drivers are proved against.

Two processes, because one asks either everybody or nobody for an external account. Each is reached through a balancer,
which here has the same backend twice. Debian's knows no renewal information; make builds the newer one where Go is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import httpx
import trustme
from cryptography import x509

from benchmarks.lab.processes import Process, free_ports
from tests.journeys.acme.balancer import balancing
from tests.journeys.acme.client import EAB, Feature, Setting, Spared, first_line
from tests.journeys.acme.clients.goclient import BUILT, SOURCE
from tests.journeys.acme.ground import Ground

_LIFE_S = 90 * 86_400
_EAB = EAB("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")  # pragma: allowlist secret
_ADDRESS_IN_CN = "this Pebble puts the address into the common name, which certbot then takes for a DNS name"
_NO_TOKEN = "this Pebble offers dns-persist-01, a challenge without a token, for which uacme gives up the authorization"


class Pebble:
    """One process."""

    def __init__(self, program: str, folder: Path, ground: Ground, *, bound: bool) -> None:
        self.port, management_port, self.front_port = free_ports(3)
        self.management = f"https://127.0.0.1:{management_port}"
        self.directory_url = f"https://localhost:{self.front_port}/dir"
        self.ca_bundle = folder / "https-root.pem"
        folder.mkdir()
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{management_port}",
            **_https(folder, self.ca_bundle),
            "httpPort": ground.http_port,
            "tlsPort": ground.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bound,
            "externalAccountMACKeys": {_EAB.kid: _EAB.key} if bound else {},
            "certificateValidityPeriod": _LIFE_S,
            "profiles": {"default": {"description": "", "validityPeriod": _LIFE_S}},
        }
        (folder / "config.json").write_text(json.dumps({"pebble": config}))
        argv = [program, "-config", str(folder / "config.json"), "-dnsserver", ground.dns]
        # It refuses good nonces now and then; dehydrated does not ask again.
        quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0", "PEBBLE_WFE_NONCEREJECT": "0"}
        self.process = Process("pebble", argv, folder / "pebble.log", quick)
        self.http = httpx.Client(verify=ssl.create_default_context(cafile=self.ca_bundle), trust_env=False)

    def start(self) -> None:
        """Start it and wait until its management answers."""
        self.process.start()
        self.process.await_ready(self._ready)

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(self.root_pem())
        return False

    def root_pem(self) -> str:
        """Return its root, another one at each start."""
        return self.http.get(f"{self.management}/roots/0").raise_for_status().text

    def is_revoked(self, serial: int) -> bool:
        """Say what it knows of a certificate of its own; nothing about others'."""
        digits = f"{serial:x}"
        answer = self.http.get(f"{self.management}/cert-status-by-serial/{digits}")
        return answer.is_success and answer.json()["Status"] == "Revoked"

    def set_renewal_info(self, certificate_pem: str, info: str) -> bool:
        """Give what it says of a certificate's renewal from now on; False when it is not its own."""
        body = {"Certificate": certificate_pem, "ARIResponse": info}
        return self.http.post(f"{self.management}/set-renewal-info/", json=body).is_success


class PebbleServer:
    """An open and a bound one of Debian's on one ground."""

    can: ClassVar[frozenset[Feature]] = frozenset(Feature) - {Feature.ARI}
    spares: ClassVar[Mapping[Spared, str]] = {("certbot, new", Feature.IP): _ADDRESS_IN_CN}

    program: ClassVar[str] = "pebble"

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.open, self.bound = (
            Pebble(self.program, ground.folder / name, ground, bound=name == "bound") for name in ("open", "bound")
        )

    @property
    def name(self) -> str:
        """Return the package's version."""
        return f"Pebble {first_line('dpkg-query', '--show', '--showformat=${Version}', 'pebble')}"

    def lend(self, *, bound: bool) -> Setting:
        """Return a setting for one of the two."""
        pebble = self.bound if bound else self.open
        return self._ground.setting(pebble.directory_url, pebble.ca_bundle, _EAB if bound else None)

    def point(self, name: str, address: str) -> None:
        """Let a name resolve to an address."""
        self._ground.point(name, address)

    def anchors_pem(self) -> str:
        """Return the roots of both."""
        return self.open.root_pem() + self.bound.root_pem()

    def is_revoked(self, chain: Sequence[bytes]) -> bool:
        """Ask both."""
        serial = x509.load_der_x509_certificate(chain[0]).serial_number
        return any(pebble.is_revoked(serial) for pebble in (self.open, self.bound))

    def hasten(self, chain: Sequence[bytes]) -> None:
        """Have no renewal information."""
        raise NotImplementedError


class NewPebble(PebbleServer):
    """The same of the newer one. It puts nothing into the common name."""

    can = frozenset(Feature)
    spares: ClassVar[Mapping[Spared, str]] = {("uacme", None): _NO_TOKEN}
    program = str(BUILT / "pebble")

    @classmethod
    def installed(cls) -> bool:
        """Say whether it was built."""
        return Path(cls.program).exists()

    @property
    def name(self) -> str:
        """Return the version of its module."""
        found = re.search(r"letsencrypt/pebble/v2 (\S+)", (SOURCE / "go.mod").read_text())
        assert found is not None
        return f"Pebble {found[1]}"

    def hasten(self, chain: Sequence[bytes]) -> None:
        """Say that the time to renew began yesterday and ended half a day later."""
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        window = {"start": (now - day).isoformat(), "end": (now - day / 2).isoformat()}
        info = json.dumps({"suggestedWindow": window})
        pem = ssl.DER_cert_to_PEM_cert(chain[0])
        assert any(pebble.set_renewal_info(pem, info) for pebble in (self.open, self.bound))


@contextlib.contextmanager
def serving(kind: type[PebbleServer], ground: Ground) -> Iterator[PebbleServer]:
    """Run both, each behind a balancer."""
    server = kind(ground)
    with contextlib.ExitStack() as stack:
        for pebble in (server.open, server.bound):
            stack.callback(pebble.http.close)
            stack.callback(pebble.process.stop)
            pebble.start()
            stack.enter_context(balancing(("127.0.0.1", pebble.front_port), [("127.0.0.1", pebble.port)] * 2))
        yield server


def _https(folder: Path, root: Path) -> dict[str, str]:
    """Write what its HTTPS needs, and the root that its clients have to trust; return its part of the settings."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(root)
    own = authority.issue_cert("localhost", "127.0.0.1")
    files = {"certificate": folder / "https.pem", "privateKey": folder / "https.key"}
    own.private_key_pem.write_to_path(files["privateKey"])
    files["certificate"].write_bytes(b"".join(blob.bytes() for blob in own.cert_chain_pems))
    return {name: str(path) for name, path in files.items()}
