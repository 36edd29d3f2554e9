"""Caddy, and by it certmagic: a server that looks after its certificates by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab.processes import Process, wait_until
from tests.journeys.acme.client import EMAIL, PATIENCE_S, Challenge, Client, ClientFailed, Feature, Setting, first_line


class Caddy(Client):
    """Debian's. One certificate for each name, dns-01 by plug-ins only, and no commands: it is told by its settings."""

    name = "caddy"
    can = frozenset({Feature.RENEW, Feature.EAB, Feature.IP})
    challenges = frozenset({Challenge.HTTP_01, Challenge.TLS_ALPN_01})
    cannot = frozenset({(Challenge.TLS_ALPN_01, Feature.IP)})  # it shows the address as a DNS name

    def __init__(self, folder: Path, setting: Setting) -> None:
        super().__init__(folder, setting)
        self._names: Sequence[str] = ()
        self._challenge = Challenge.HTTP_01
        self._config = folder / "caddy.json"
        own = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "data")}
        argv = ["caddy", "run", "--config", str(self._config)]
        self._process = Process("caddy", argv, folder / "caddy.log", own)

    @classmethod
    def version(cls) -> str:
        """Return what ``caddy version`` says."""
        return f"caddy {first_line('caddy', 'version')}"

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Run it until the certificate is there."""
        self._names, self._challenge = names, challenge
        return self._until(lambda: self.chain_path() is not None)

    def renew(self) -> str:
        """Run it with the whole life as the time to renew in."""
        before = self.certificate()
        return self._until(lambda: self.certificate() != before, renewal_window_ratio=1.0)

    def chain_path(self) -> Path | None:
        """Return the one certificate of its storage."""
        return next((self.folder / "storage" / "certificates").glob("*/*/*.crt"), None)

    def close(self) -> None:
        """Stop it."""
        self._process.stop()

    def _until(self, done: Callable[[], bool], **policy: Any) -> str:
        self._config.write_text(json.dumps(self._settings(policy)))
        self._process.start()
        try:
            wait_until(f"caddy has a certificate for {', '.join(self._names)}", done, PATIENCE_S, 0.05)
        except TimeoutError as error:
            raise ClientFailed(f"{error}\n{self._process.tail(40)}") from error
        finally:
            self._process.stop()
        return self._process.tail(40)

    def _settings(self, policy: dict[str, Any]) -> dict[str, Any]:
        policies = [{"subjects": list(self._names), "issuers": [self._issuer()], **policy}]
        tls = {
            "certificates": {"automate": list(self._names)},
            "automation": {"policies": policies, "renew_interval": "1s"},
        }
        return {
            "admin": {"disabled": True},
            "storage": {"module": "file_system", "root": str(self.folder / "storage")},
            # For addresses it would make an authority as well, and add that to the system's store.
            "apps": {"tls": tls, "pki": {"certificate_authorities": {"local": {"install_trust": False}}}},
        }

    def _issuer(self) -> dict[str, Any]:
        setting = self.setting
        ports = {"http": setting.http_port, "tls-alpn": setting.tls_port}
        challenges: dict[str, Any] = {
            kind: {"disabled": not self._challenge.startswith(kind), "alternate_port": port}
            for kind, port in ports.items()
        }
        issuer: dict[str, Any] = {
            "module": "acme",
            "ca": setting.directory_url,
            "email": EMAIL,
            "trusted_roots_pem_files": [str(setting.ca_bundle)],
            "challenges": {**challenges, "bind_host": setting.address},
        }
        if setting.eab:
            issuer["external_account"] = {"key_id": setting.eab.kid, "mac_key": setting.eab.key}
        return issuer


CLIENTS = (Caddy,)
