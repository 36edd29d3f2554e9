"""A small client on golang.org/x/crypto/acme, the library under cert-manager; its source is in ``goclient``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lab.processes import REPOSITORY
from tests.journeys.acme.client import Challenge, Client, Feature

BUILT = REPOSITORY / ".cache" / "acme"
PROGRAM = BUILT / "goclient"
SOURCE = Path(__file__).parents[1] / "goclient"


class GoClient(Client):
    """Built by make where Go is. The library knows nothing of renewal information."""

    name = "x/crypto/acme"
    can = frozenset(Feature) - {Feature.ARI}
    challenges = frozenset(Challenge)

    @classmethod
    def installed(cls) -> bool:
        """Say whether it was built."""
        return PROGRAM.exists()

    @classmethod
    def version(cls) -> str:
        """Return the version of the library."""
        found = re.search(r"golang\.org/x/crypto (\S+)", (SOURCE / "go.mod").read_text())
        assert found is not None
        return f"golang.org/x/crypto {found[1]}"

    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Register and order."""
        return self._goclient(["-challenge", challenge], "issue", *names)

    def renew(self) -> str:
        """Order the same names again by the same challenge."""
        return self._goclient([], "renew")

    def revoke(self) -> str:
        """Revoke with the account's key."""
        return self._goclient([], "revoke")

    def change_key(self) -> str:
        """Roll over."""
        return self._goclient([], "newkey")

    def chain_path(self) -> Path:
        """Return its one file."""
        return self.folder / "chain.pem"

    def _goclient(self, options: Sequence[str], *words: str) -> str:
        setting = self.setting
        given = {
            "state": self.folder,
            "directory": setting.directory_url,
            "ca": setting.ca_bundle,
            "address": setting.address,
            "http": setting.http_port,
            "tls": setting.tls_port,
            "hook": setting.dns_hook,
        }
        if setting.eab:
            given |= {"kid": setting.eab.kid, "hmac": setting.eab.key}
        return self.command(PROGRAM, *(f"-{name}={value}" for name, value in given.items()), *options, *words)


CLIENTS = (GoClient,)
