"""Our own server in the part of the server: two coordinators on one database, asked in turn.

The open directory wants challenges; the bound one trusts accounts, which therefore have to be bound.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import ClassVar

import httpx
from anyio.from_thread import start_blocking_portal
from cryptography import x509

from benchmarks.lab.fleet import API, JSON, Coordinator
from benchmarks.lab.processes import free_ports
from coordinator.database.embedded import EmbeddedPostgres
from tests.journeys.acme.balancer import balancing
from tests.journeys.acme.client import EAB, Feature, Setting, Spared
from tests.journeys.acme.ground import Ground

_LIFE_S = 90 * 86_400
OPEN, BOUND = "prof-open", "prof-bound"
_KEY = "key-of-two-replicas-that-is-long-enough"  # pragma: allowlist secret


class CertctlServer:
    """Two replicas behind a balancer."""

    can: ClassVar[frozenset[Feature]] = frozenset(Feature)
    spares: ClassVar[Mapping[Spared, str]] = {}

    def __init__(self, ground: Ground, dsn: str) -> None:
        self._ground = ground
        (self.front_port,) = free_ports(1)
        self.url = f"https://localhost:{self.front_port}"
        env = {
            "CERTCTL_DATABASE_URL": dsn,
            "CERTCTL_CONFIG_ENCRYPTION_KEY": _KEY,
            "CERTCTL_SERVER_URL": self.url,
            "CERTCTL_ACME_SERVER_ENABLED": "true",
            "CERTCTL_ACME_SERVER_DNS01_RESOLVER": ground.dns,
            "CERTCTL_ACME_SERVER_HTTP01_PORT": str(ground.http_port),
            "CERTCTL_ACME_SERVER_TLSALPN01_PORT": str(ground.tls_port),
            "CERTCTL_ACME_SERVER_ALLOWED_NETWORKS": "127.0.0.0/8",
            "CERTCTL_ACME_SERVER_RATE_LIMIT_ORDERS_PER_HOUR": "0",
            "CERTCTL_ACME_SERVER_RATE_LIMIT_SAME_NAMES_PER_HOUR": "0",
            "CERTCTL_ACME_SERVER_RATE_LIMIT_CONCURRENT_ORDERS": "0",
        }
        self._ca_path = ground.folder / "https-root.pem"
        self.replicas = [Coordinator(ground.folder / name, env) for name in ("one", "two")]

    def start(self) -> None:
        """Start both and make what they serve."""
        for replica in self.replicas:
            replica.start()
        self._ca_path.write_bytes(self.replicas[0].ca_path.read_bytes())
        self._ca_path.chmod(0o644)  # clients drop their privileges, and the coordinator's folder is its own
        common = {"max_lifetime_s": _LIFE_S, "key_algorithms": ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-4096"]}
        self.api.post("/api/v1/profiles", {"id": OPEN, "name": "open", "acme_auth_mode": "challenge", **common})
        self.api.post("/api/v1/profiles", {"id": BOUND, "name": "bound", **common})

    def stop(self) -> None:
        """Stop both."""
        for replica in self.replicas:
            replica.close()
            replica.process.stop()

    @property
    def api(self) -> API:
        """Return a client of the first."""
        return self.replicas[0].api()

    @property
    def name(self) -> str:
        """Return our version."""
        return f"certctl {version('certctl')}"

    def lend(self, *, bound: bool) -> Setting:
        """Return a setting for one of the two directories."""
        return self.lend_bound(BOUND) if bound else self._lend(OPEN, None)

    def lend_bound(self, profile_id: str, **limits: object) -> Setting:
        """Return a setting with an external account for the directory of a profile."""
        made = self.api.create("/api/v1/acme-eab-keys", {"name": "matrix", "profile_ids": [profile_id], **limits})
        return self._lend(profile_id, EAB(made["id"], made["hmac_key"]))

    def _lend(self, profile_id: str, eab: EAB | None) -> Setting:
        return self._ground.setting(f"{self.url}/acme/profile/{profile_id}/directory", self._ca_path, eab)

    def point(self, name: str, address: str) -> None:
        """Let a name resolve to an address."""
        self._ground.point(name, address)

    def anchors_pem(self) -> str:
        """Return the root."""
        der = httpx.get(f"{self.replicas[1].pki_url}/.well-known/pki/ca/iss-local", trust_env=False).content
        return ssl.DER_cert_to_PEM_cert(der)

    def is_revoked(self, chain: Sequence[bytes]) -> bool:
        """Ask the inventory, which the authority's list is made from."""
        serial = f"{x509.load_der_x509_certificate(chain[0]).serial_number:x}"
        for certificate in self._named_in(chain):
            versions = self.api.get(f"/api/v1/certificates/{certificate['id']}/versions")["data"]
            if any(version["serial"] == serial and version["revoked_at"] for version in versions):
                return True
        return False

    def hasten(self, chain: Sequence[bytes]) -> None:
        """Ask as an operator does."""
        found = self._named_in(chain)
        for certificate in found:
            self.api.post(f"/api/v1/certificates/{certificate['id']}/renew")
        assert found

    def _named_in(self, chain: Sequence[bytes]) -> list[JSON]:
        leaf = x509.load_der_x509_certificate(chain[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        wanted = {str(each.value) for each in names}
        found = self.api.get("/api/v1/certificates", page_size=500)["data"]
        return [each for each in found if {each["common_name"], *each["sans"]} == wanted]


@contextlib.contextmanager
def serving(ground: Ground) -> Iterator[CertctlServer]:
    """Run both on a database of their own, behind a balancer."""
    embedded = EmbeddedPostgres(ground.folder / "database")
    with start_blocking_portal("asyncio") as portal:
        server = CertctlServer(ground, portal.call(embedded.start))
        ports = [("127.0.0.1", int(replica.env["CERTCTL_SERVER_PORT"])) for replica in server.replicas]
        try:
            with balancing(("127.0.0.1", server.front_port), ports) as balancer:
                server.start()
                yield server
                assert min(balancer.given) > 0 or sum(balancer.given) < len(ports), "only one of both was asked"
        finally:
            server.stop()
            portal.call(embedded.stop)
