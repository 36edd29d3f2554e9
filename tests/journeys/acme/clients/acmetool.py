"""acmetool: a Go client by itself, neither lego nor certmagic."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.journeys.acme.client import EMAIL, Challenge, Client, Feature, first_line

_HOOK = """
case "$1" in
  challenge-dns-start) "$HOOK" set "_acme-challenge.$2" "$4";;
  challenge-dns-stop) "$HOOK" clear "_acme-challenge.$2";;
  *) exit 42;;
esac
"""


class Acmetool(Client):
    """Debian's. Knows no external accounts, no tls-alpn-01, no new account key; only notes what is to be revoked."""

    name = "acmetool"
    can = frozenset({Feature.RENEW, Feature.SEVERAL, Feature.WILDCARD})
    challenges = frozenset({Challenge.HTTP_01, Challenge.DNS_01})

    _names: Sequence[str] = ()
    _challenge = Challenge.HTTP_01
    _key = "rsa"

    @classmethod
    def version(cls) -> str:
        """Return the package's version: the program itself was built without one."""
        return f"acmetool {first_line('dpkg-query', '--show', '--showformat=${Version}', 'acmetool')}"

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Write the target and the answers, and reconcile."""
        self._names, self._challenge = names, challenge
        hooks = self.folder / "hooks"
        hooks.mkdir(exist_ok=True)
        if challenge is Challenge.DNS_01:
            self.script("hooks/dns", _HOOK)
        (self.folder / "answers").write_text(json.dumps({"acme-enter-email": EMAIL, **self._agreement()}))
        self._want()
        return self._acmetool("reconcile")

    def renew(self) -> str:
        """Ask for the other type of key: it cannot be forced, and by dates it only renews in the last third."""
        self._key = "ecdsa" if self._key == "rsa" else "rsa"
        self._want()
        return self._acmetool("reconcile")

    def chain_path(self) -> Path:
        """Return the file that is found by each of the names."""
        return self.folder / "state" / "live" / self._names[0] / "fullchain"

    def _want(self) -> None:
        setting = self.setting
        where = {"http-ports": [f"{setting.address}:{setting.http_port}"], "http-self-test": False}
        request: dict[str, Any] = {"provider": setting.directory_url, "challenge": where}
        desired = self.folder / "state" / "desired"
        desired.mkdir(parents=True, exist_ok=True)
        satisfy = {"names": list(self._names), "key": {"type": self._key}}
        (desired / "site").write_text(json.dumps({"satisfy": satisfy, "request": request}))

    def _agreement(self) -> dict[str, bool]:
        """Agree to the terms, which it asks for by their URL."""
        context = ssl.create_default_context(cafile=self.setting.ca_bundle)
        directory = httpx.get(self.setting.directory_url, verify=context, trust_env=False).raise_for_status().json()
        terms = directory.get("meta", {}).get("termsOfService")
        return {f"acme-agreement:{terms}": True} if terms else {}

    def _acmetool(self, *words: str) -> str:
        options = {"state": "state", "hooks": "hooks", "response-file": "answers"}
        base = [f"--{option}={self.folder / place}" for option, place in options.items()]
        env = {"SSL_CERT_FILE": str(self.setting.ca_bundle)}
        return self.command("acmetool", *base, "--batch", "--xlog.severity=debug", *words, env=env)


CLIENTS = (Acmetool,)
