"""certbot: Debian's, and the newest."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.journeys.acme.client import Challenge, Client, Feature, first_line

_LINEAGE = "site"


class Certbot(Client):
    """Debian's. Has no command for a new account key."""

    name = "certbot"
    can = frozenset({Feature.RENEW, Feature.REVOKE, Feature.SEVERAL, Feature.WILDCARD, Feature.EAB})
    challenges = frozenset({Challenge.HTTP_01, Challenge.DNS_01})
    program: ClassVar[tuple[str, ...]] = ("/usr/bin/certbot",)

    @classmethod
    def version(cls) -> str:
        """Return what ``--version`` says."""
        return first_line(*cls.program, "--version")

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Call ``certonly`` with a server of its own, or with hooks."""
        setting = self.setting
        words = ["--register-unsafely-without-email", "--cert-name", _LINEAGE, "--preferred-challenges", challenge]
        if setting.eab:
            words += ["--eab-kid", setting.eab.kid, "--eab-hmac-key", setting.eab.key]
        if challenge is Challenge.HTTP_01:
            words += ["--standalone", "--http-01-port", str(setting.http_port), "--http-01-address", setting.address]
        else:
            add = self.script("auth.sh", '"$HOOK" set "_acme-challenge.$CERTBOT_DOMAIN" "$CERTBOT_VALIDATION"\n')
            clear = self.script("cleanup.sh", '"$HOOK" clear "_acme-challenge.$CERTBOT_DOMAIN"\n')
            words += ["--manual", "--manual-auth-hook", str(add), "--manual-cleanup-hook", str(clear)]
        for name in names:
            words += ["--ip-address" if _is_address(name) else "-d", name]
        return self._certbot("certonly", *words)

    def renew(self) -> str:
        """Force it."""
        return self._certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")

    def revoke(self) -> str:
        """Revoke with a reason; keep the files."""
        return self._certbot("revoke", "--cert-name", _LINEAGE, "--reason", "superseded", "--no-delete-after-revoke")

    def chain_path(self) -> Path:
        """Return the lineage's link."""
        return self.folder / "config" / "live" / _LINEAGE / "fullchain.pem"

    def _certbot(self, command: str, *words: str) -> str:
        folders = [word for kind in ("config", "work", "logs") for word in (f"--{kind}-dir", str(self.folder / kind))]
        base = [*self.program, command, *folders, "--server", self.setting.directory_url, "-n", "--agree-tos"]
        return self.command(*base, *words, env={"REQUESTS_CA_BUNDLE": str(self.setting.ca_bundle)})


class NewCertbot(Certbot):
    """The one that comes with this environment. Asks for renewal information and for certificates of addresses."""

    name = "certbot, new"
    can = Certbot.can | {Feature.IP, Feature.ARI}
    program = (sys.executable, "-c", "import sys; from certbot.main import main; sys.exit(main())")

    def renew_if_told(self) -> str:
        """Let it ask whether renewal is due."""
        return self._certbot("renew", "--no-random-sleep-on-renew")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


CLIENTS = (Certbot, NewCertbot)
