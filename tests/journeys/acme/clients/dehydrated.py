"""dehydrated: a shell script on curl and OpenSSL."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tests.journeys.acme.client import Challenge, Client, Feature, Setting, first_line
from tests.journeys.acme.responders import ALPNResponder, webroot

_HOOK = """
case "$1" in
  deploy_challenge) "$HOOK" set "_acme-challenge.$2" "$4";;
  clean_challenge) "$HOOK" clear "_acme-challenge.$2";;
esac
"""


class Dehydrated(Client):
    """Debian's. Writes files and leaves it to others to serve them."""

    name = "dehydrated"
    can = frozenset({Feature.RENEW, Feature.REVOKE, Feature.SEVERAL, Feature.WILDCARD, Feature.EAB})
    challenges = frozenset(Challenge)

    def __init__(self, folder: Path, setting: Setting) -> None:
        super().__init__(folder, setting)
        self._challenge = Challenge.HTTP_01
        self._root = folder / "www"
        self._shown = folder / "alpn-certs"
        for place in (self._root / ".well-known" / "acme-challenge", self._shown):
            place.mkdir(parents=True)

    @classmethod
    def version(cls) -> str:
        """Return the package's version."""
        return f"dehydrated {first_line('dpkg-query', '--show', '--showformat=${Version}', 'dehydrated')}"

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Register, then sign what domains.txt lists."""
        self._challenge = challenge
        self._write()
        (self.folder / "domains.txt").write_text(f"{' '.join(names)} > site\n")
        return self._dehydrated("--register", "--accept-terms") + self._cron()

    def renew(self) -> str:
        """Force it."""
        return self._cron("--force")

    def revoke(self) -> str:
        """Revoke by the file, which it then renames."""
        leaf = self.folder / "certs" / "site" / "cert.pem"
        chain = self.chain_path().read_bytes()
        output = self._dehydrated("--revoke", str(leaf.resolve()))
        self.chain_path().write_bytes(chain)
        return output

    def chain_path(self) -> Path:
        """Return the alias's link."""
        return self.folder / "certs" / "site" / "fullchain.pem"

    def _cron(self, *words: str) -> str:
        with self._served():
            return self._dehydrated("--cron", *words)

    def _served(self) -> AbstractContextManager[object]:
        setting = self.setting
        if self._challenge is Challenge.HTTP_01:
            return webroot(self._root, setting.address, setting.http_port)
        if self._challenge is Challenge.TLS_ALPN_01:
            return ALPNResponder(self._shown, setting.address, setting.tls_port)
        return nullcontext()

    def _write(self) -> None:
        hook = self.script("hook.sh", _HOOK)
        lines = {
            "CA": self.setting.directory_url,
            "BASEDIR": self.folder,
            "WELLKNOWN": self._root / ".well-known" / "acme-challenge",
            "ALPNCERTDIR": self._shown,
            "CURL_OPTS": f"--cacert {self.setting.ca_bundle}",
            "CHALLENGETYPE": self._challenge,
            "HOOK": hook if self._challenge is Challenge.DNS_01 else "",
            "KEY_ALGO": "prime256v1",
        }
        if self.setting.eab:
            lines |= {"EAB_KID": self.setting.eab.kid, "EAB_HMAC_KEY": self.setting.eab.key}
        (self.folder / "config").write_text("".join(f'{name}="{value}"\n' for name, value in lines.items()))

    def _dehydrated(self, *words: str) -> str:
        return self.command("dehydrated", "--config", self.folder / "config", *words)


CLIENTS = (Dehydrated,)
