"""Apache's mod_md: a server that looks after its certificates by itself, and takes them at a graceful restart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.lab.processes import Process, wait_until
from tests.journeys.acme.client import EMAIL, PATIENCE_S, Challenge, Client, ClientFailed, Feature, Setting, first_line

BINARY = "/usr/sbin/apache2"
MODULES = Path("/usr/lib/apache2/modules")
_HOOK = """
case "$1" in
  setup) "$HOOK" set "_acme-challenge.$2" "$3";;
  teardown) "$HOOK" clear "_acme-challenge.$2";;
esac
"""


class ModMD(Client):
    """Debian's. Has no commands, it is told by its settings; does not revoke, change its key or ask for addresses."""

    name = "mod_md"
    can = frozenset({Feature.RENEW, Feature.SEVERAL, Feature.WILDCARD, Feature.EAB, Feature.ARI})
    challenges = frozenset(Challenge)

    def __init__(self, folder: Path, setting: Setting) -> None:
        super().__init__(folder, setting)
        self._names: Sequence[str] = ()
        self._challenge = Challenge.HTTP_01
        self._config = folder / "apache2.conf"
        for place in ("htdocs", "store"):
            (folder / place).mkdir()
        folder.chmod(0o755)
        argv = [BINARY, "-f", str(self._config), "-D", "FOREGROUND"]
        self._process = Process("apache", argv, folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return what ``apache2 -v`` says."""
        return first_line(BINARY, "-v").removeprefix("Server version: ")

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Run it until the certificate is there, and start it again to take it."""
        self._names, self._challenge = names, challenge
        return self._until(lambda: self._staged() is not None)

    def renew(self) -> str:
        """Run it with a window to renew in that has begun."""
        return self._until(lambda: self._staged() is not None, "MDRenewWindow 4000d\nMDRenewViaARI off\n")

    def renew_if_told(self) -> str:
        """Run it with the window of every day, and let it ask."""
        return self._until(lambda: self._staged() is not None, "MDRenewViaARI on\n")

    def chain_path(self) -> Path | None:
        """Return the file that it serves from."""
        return self.folder / "store" / "domains" / self._names[0] / "pubcert.pem"

    def close(self) -> None:
        """Stop it."""
        self._process.stop()

    def _staged(self) -> Path | None:
        """Return the folder of a certificate that waits for a restart."""
        place = self.folder / "store" / "staging" / self._names[0]
        job = place / "job.json"
        if job.exists() and json.loads(job.read_text() or "{}").get("finished"):
            return place
        return None

    def _until(self, done: Callable[[], bool], more: str = "") -> str:
        self._write(more)
        self._process.start()
        try:
            wait_until(f"mod_md has a certificate for {', '.join(self._names)}", done, PATIENCE_S, 0.05)
            self._process.stop()
            self._write()
            self._process.start()
            wait_until("mod_md takes its certificate", lambda: self._staged() is None, PATIENCE_S, 0.05)
        except TimeoutError as error:
            raise ClientFailed(f"{error}\n{self._log()}") from error
        finally:
            self._process.stop()
        return self._log()

    def _log(self) -> str:
        log = self.folder / "error.log"
        return self._process.tail() + (log.read_text(errors="replace") if log.exists() else "")

    def _write(self, more: str = "") -> None:
        setting = self.setting
        modules = "".join(
            f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in ("mpm_event", "authz_core", "ssl", "md")
        )
        user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
        hook = self.script("hook.sh", _HOOK)
        eab = f"MDExternalAccountBinding {setting.eab.kid} {setting.eab.key}\n" if setting.eab else ""
        ports = (setting.http_port, setting.tls_port)
        listen = "".join(f"Listen {setting.address}:{port}\n" for port in ports)
        aliases = f"ServerName {self._names[0]}\n" + "".join(f"ServerAlias {name}\n" for name in self._names[1:])
        hosts = "".join(
            f"<VirtualHost {setting.address}:{port}>\n{aliases}{tls}</VirtualHost>\n"
            for port, tls in zip(ports, ("", "SSLEngine on\n"), strict=True)
        )
        self._config.write_text(
            f'{modules}{user}ServerName localhost\nPidFile "{self.folder}/apache.pid"\n'
            "LogLevel warn md:info ssl:error\n"
            f'ErrorLog "{self.folder}/error.log"\nDefaultRuntimeDir "{self.folder}"\nStartServers 1\n'
            f'DocumentRoot "{self.folder}/htdocs"\nProtocols http/1.1 acme-tls/1\n{listen}'
            f'MDStoreDir "{self.folder}/store"\nMDPortMap http:{ports[0]} https:{ports[1]}\n'
            f'MDCertificateAuthority {setting.directory_url}\nMDCACertificateFile "{setting.ca_bundle}"\n'
            f"MDCertificateAgreement accepted\nMDContactEmail {EMAIL}\nMDCheckInterval 1s\nMDRetryDelay 1s\n"
            f'MDCAChallenges {self._challenge}\nMDChallengeDns01 "{hook}"\n{eab}{more}'
            f"MDomain {' '.join(self._names)}\n{hosts}"
        )


CLIENTS = (ModMD,)
