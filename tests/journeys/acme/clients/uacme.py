"""uacme: C on libcurl and GnuTLS, with ualpn beside it for tls-alpn-01."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lab.processes import Process
from tests.journeys.acme.client import EMAIL, Challenge, Client, Feature, Setting, first_line
from tests.journeys.acme.responders import webroot

SYSTEM_STORE = Path("/etc/ssl/certs/ca-certificates.crt")

_HOOK = """
METHOD=$1 TYPE=$2 IDENT=$3 TOKEN=$4 AUTH=$5
test "$TYPE" = "$(cat "{folder}/challenge")" || exit 1
case "$METHOD,$TYPE" in
  begin,http-01) printf %s "$AUTH" > "{folder}/www/.well-known/acme-challenge/$TOKEN";;
  *,http-01) rm -f "{folder}/www/.well-known/acme-challenge/$TOKEN";;
  begin,dns-01) "$HOOK" set "_acme-challenge.$IDENT" "$AUTH";;
  *,dns-01) "$HOOK" clear "_acme-challenge.$IDENT";;
  begin,tls-alpn-01) test "$(echo "auth $IDENT $AUTH" | ualpn -s "{folder}/ualpn.sock")" = OK;;
  *,tls-alpn-01) test "$(echo "unauth $IDENT" | ualpn -s "{folder}/ualpn.sock")" = OK;;
esac
"""


class Uacme(Client):
    """Debian's. Trusts the system's store only, so that it runs where that is another file."""

    name = "uacme"
    can = frozenset(Feature) - {Feature.ARI}
    challenges = frozenset(Challenge)

    def __init__(self, folder: Path, setting: Setting) -> None:
        super().__init__(folder, setting)
        (folder / "www" / ".well-known" / "acme-challenge").mkdir(parents=True)
        (folder / "trusted.pem").write_bytes(SYSTEM_STORE.read_bytes() + setting.ca_bundle.read_bytes())
        self._hook = self.script("hook.sh", _HOOK.replace("{folder}", str(folder)))
        self._challenge = Challenge.HTTP_01
        self._names: list[str] = []

    @classmethod
    def version(cls) -> str:
        """Return what ``--version`` says."""
        return first_line("uacme", "--version").replace(": version", "")

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Make the account, then ask."""
        self._challenge, self._names = challenge, list(names)
        (self.folder / "challenge").write_text(challenge)
        eab = self.setting.eab
        made = self._uacme(*(("--eab", f"{eab.kid}:{eab.key}") if eab else ()), "new", EMAIL)
        return made + self._issue()

    def renew(self) -> str:
        """Force it."""
        return self._issue("--force")

    def revoke(self) -> str:
        """Revoke by the file, which it then renames."""
        chain = self.chain_path().read_bytes()
        output = self._uacme("--reason", "4", "revoke", str(self.chain_path()))
        self.chain_path().write_bytes(chain)
        return output

    def change_key(self) -> str:
        """Roll over."""
        return self._uacme("newkey")

    def chain_path(self) -> Path:
        """Return the file that is named after the first name."""
        return self.folder / "conf" / self._names[0] / "cert.pem"

    def _issue(self, *words: str) -> str:
        setting = self.setting
        with contextlib.ExitStack() as stack:
            if self._challenge is Challenge.HTTP_01:
                stack.enter_context(webroot(self.folder / "www", setting.address, setting.http_port))
            elif self._challenge is Challenge.TLS_ALPN_01:
                stack.callback(self._ualpn().stop)
            return self._uacme(*words, "--hook", str(self._hook), "issue", *self._names)

    def _ualpn(self) -> Process:
        where, sock = f"{self.setting.address}@{self.setting.tls_port}", self.folder / "ualpn.sock"
        own = ["-s", str(sock), "-p", str(self.folder / "ualpn.pid")]
        argv = ["ualpn", "-v", "-b", where, "-c", f"{self.setting.address}@9", *own]
        process = Process("ualpn", argv, self.folder / "ualpn.log").start()
        process.await_ready(sock.is_socket)
        return process

    def _uacme(self, *words: str) -> str:
        mount = f'mount --bind "{self.folder}/trusted.pem" "{SYSTEM_STORE}" && exec "$@"'
        apart = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", mount, "sh"]
        base = ["uacme", "--verbose", "--yes", "--no-ocsp", "--confdir", str(self.folder / "conf")]
        return self.command(*apart, *base, "--acme-url", self.setting.directory_url, *words)


CLIENTS = (Uacme,)
