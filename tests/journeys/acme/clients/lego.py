"""lego, the library under Traefik and many others, by its own command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.journeys.acme.client import EMAIL, Challenge, Client, Feature, Setting, first_line

_NO_WAITING = {"EXEC_SEQUENCE_INTERVAL": "1", "EXEC_POLLING_INTERVAL": "1"}
"""It would wait for a minute between two names, so that resolvers forget the first."""


class Lego(Client):
    """Debian's. Sends an address as a DNS name, and has no command for a new account key."""

    name = "lego"
    can = frozenset({Feature.RENEW, Feature.REVOKE, Feature.SEVERAL, Feature.WILDCARD, Feature.EAB})
    challenges = frozenset(Challenge)

    def __init__(self, folder: Path, setting: Setting) -> None:
        super().__init__(folder, setting)
        self._asked: list[str] = []
        self._first = ""

    @classmethod
    def version(cls) -> str:
        """Return the package's version: the program itself was built without one."""
        return f"lego {first_line('dpkg-query', '--show', '--showformat=${Version}', 'lego')}"

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Run it with the options that every later command takes as well."""
        setting = self.setting
        self._first = names[0]
        self._asked = [word for name in names for word in ("--domains", name)]
        if setting.eab:
            self._asked += ["--eab", "--kid", setting.eab.kid, "--hmac", setting.eab.key]
        if challenge is Challenge.HTTP_01:
            self._asked += ["--http", "--http.port", f"{setting.address}:{setting.http_port}"]
        elif challenge is Challenge.TLS_ALPN_01:
            self._asked += ["--tls", "--tls.port", f"{setting.address}:{setting.tls_port}"]
        else:
            self._asked += ["--dns", "exec", "--dns.disable-cp"]
        return self._lego("run")

    def renew(self) -> str:
        """Renew what ends within years."""
        return self._lego("renew", "--days", "3000", "--no-random-sleep")

    def revoke(self) -> str:
        """Revoke with a reason; keep the files."""
        return self._lego("revoke", "--keep", "--reason", "4")

    def chain_path(self) -> Path:
        """Return the file that is named after the first name."""
        return self.folder / "certificates" / f"{self._first.replace('*', '_')}.crt"

    def _lego(self, *words: str) -> str:
        hook = self.script("exec.sh", 'case "$1" in present) "$HOOK" set "$2" "$3";; *) "$HOOK" clear "$2";; esac\n')
        env = {"LEGO_CA_CERTIFICATES": str(self.setting.ca_bundle), "EXEC_PATH": str(hook), **_NO_WAITING}
        base = ["lego", "--server", self.setting.directory_url, "--path", str(self.folder), "--email", EMAIL]
        return self.command(*base, "--accept-tos", *self._asked, *words, env=env)


CLIENTS = (Lego,)
