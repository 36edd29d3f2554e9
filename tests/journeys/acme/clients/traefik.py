"""Traefik: a proxy that looks after the certificates of its routers by itself, on the newest lego."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.lab.processes import Process, wait_until
from benchmarks.lab.wire import look
from tests.journeys.acme.client import EMAIL, PATIENCE_S, Challenge, Client, ClientFailed, Feature, Setting
from tests.programs import TRAEFIK, traefik_version

_RESOLVER = "certctl"
_MONTHS_H, _YEARS_H = 90 * 24, 365 * 24
_HOOK = 'case "$1" in present) "$HOOK" set "$2" "$3";; *) "$HOOK" clear "$2";; esac\n'


class Traefik(Client):
    """The one that comes with this environment. It has no commands: it is told by its settings, and looked at."""

    name = "traefik"
    can = frozenset({Feature.RENEW, Feature.SEVERAL, Feature.WILDCARD, Feature.EAB, Feature.IP})
    challenges = frozenset(Challenge)
    cannot = frozenset({(Challenge.TLS_ALPN_01, Feature.IP)})  # it has no answer for the SNI of an address (RFC 8738)

    def __init__(self, folder: Path, setting: Setting) -> None:
        super().__init__(folder, setting)
        self._names: Sequence[str] = ()
        self._challenge = Challenge.HTTP_01
        self._config, self._storage = folder / "traefik.yaml", folder / "acme.json"
        hook = self.script("exec.sh", _HOOK)
        # It would ask the system's resolvers where the name's records are.
        env = {"EXEC_PATH": str(hook), "EXEC_SEQUENCE_INTERVAL": "1", "LEGO_DISABLE_CNAME_SUPPORT": "true"}
        self._process = Process("traefik", [TRAEFIK, f"--configFile={self._config}"], folder / "traefik.log", env)

    @classmethod
    def version(cls) -> str:
        """Return what ``traefik version`` says."""
        return traefik_version()

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Run it until it serves the certificate that it has stored."""
        self._names, self._challenge = names, challenge
        return self._until(lambda: True, _MONTHS_H)

    def renew(self) -> str:
        """Run it as for certificates of years, which are renewed when four months are left."""
        before = self.certificate()
        return self._until(lambda: self.certificate() != before, _YEARS_H)

    def chain_path(self) -> Path | None:
        """Write out the one certificate of its storage, which may be half written; None when there is none."""
        try:
            (stored,) = json.loads(self._storage.read_text())[_RESOLVER]["Certificates"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        path = self.folder / "chain.pem"
        path.write_bytes(base64.b64decode(stored["certificate"]))
        return path

    def close(self) -> None:
        """Stop it."""
        self._process.stop()

    def _until(self, done: Callable[[], bool], life_h: int) -> str:
        self._write(life_h)
        self._process.start()
        try:
            what = f"traefik serves a certificate for {', '.join(self._names)}"
            wait_until(what, lambda: self._serves() and done(), PATIENCE_S, 0.1)
        except TimeoutError as error:
            raise ClientFailed(f"{error}\n{self._process.tail(40)}") from error
        finally:
            self._process.stop()
        return self._process.tail(40)

    def _serves(self) -> bool:
        seen = look(self.setting.tls_port, self._names[0], host=self.setting.address)
        path = self.chain_path()
        if seen is None or path is None:
            return False
        return x509.load_pem_x509_certificates(path.read_bytes())[0].public_bytes(Encoding.DER) == seen.der

    def _write(self, life_h: int) -> None:
        """Write both files; JSON is YAML."""
        setting = self.setting
        routes = self.folder / "routes.yaml"
        tls = {"certResolver": _RESOLVER, "domains": [{"main": self._names[0], "sans": list(self._names[1:])}]}
        router = {"rule": "PathPrefix(`/`)", "entryPoints": ["websecure"], "service": "ping@internal", "tls": tls}
        routes.write_text(json.dumps({"http": {"routers": {"shop": router}}}))
        ports = {"web": setting.http_port, "websecure": setting.tls_port}
        static = {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {name: {"address": f"{setting.address}:{port}"} for name, port in ports.items()},
            "providers": {"file": {"filename": str(routes), "watch": False}},
            "ping": {"manualRouting": True},
            "log": {"level": "DEBUG"},
            "certificatesResolvers": {_RESOLVER: {"acme": self._resolver(life_h)}},
        }
        self._config.write_text(json.dumps(static))

    def _resolver(self, life_h: int) -> dict[str, Any]:
        setting = self.setting
        challenges: dict[Challenge, dict[str, Any]] = {
            Challenge.HTTP_01: {"httpChallenge": {"entryPoint": "web"}},
            Challenge.TLS_ALPN_01: {"tlsChallenge": {}},
            Challenge.DNS_01: {"dnsChallenge": {"provider": "exec", "propagation": {"disableChecks": True}}},
        }
        resolver = {
            "caServer": setting.directory_url,
            "caCertificates": [str(setting.ca_bundle)],
            "email": EMAIL,
            "storage": str(self._storage),
            "keyType": "EC256",
            "certificatesDuration": life_h,
            **challenges[self._challenge],
        }
        if setting.eab:
            resolver["eab"] = {"kid": setting.eab.kid, "hmacEncoded": setting.eab.key}
        return resolver


CLIENTS = (Traefik,)
