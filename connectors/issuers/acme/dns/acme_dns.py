"""Records at an acme-dns server (https://github.com/joohoi/acme-dns): a name of its own that aliases point to.

It keeps the last two values of its one name, which is what a name and its wildcard need, and removes none.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from connectors.issuers.acme.dns.base import API, Provider, TXTRecord, json_of
from connectors.issuers.acme.transport import Connection
from core.secret import Secret


class AcmeDNSConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registration at an acme-dns server; ``_acme-challenge`` of each name is a CNAME of its fulldomain."""

    server_url: Annotated[str, msgspec.Meta(description="Address of its API, https://auth.example.net", min_length=1)]
    username: Annotated[str, msgspec.Meta(description="Username of the registration.", min_length=1)]
    password: Annotated[
        Secret[str], msgspec.Meta(description="Password of the registration.", extra_json_schema={"secret": True})
    ]
    subdomain: Annotated[str, msgspec.Meta(description="Subdomain of the registration.", min_length=1)]
    connection: Annotated[Connection, msgspec.Meta(description="How it is reached.")] = Connection()


class AcmeDNS:
    """Sends values."""

    def __init__(self, config: AcmeDNSConfig) -> None:
        self._config = config
        self._api = API("acme-dns", config.connection)

    async def present(self, record: TXTRecord) -> None:
        """Send a value; the name is the registration's, whatever the record's is."""
        config = self._config
        headers = {
            "X-Api-User": config.username,
            "X-Api-Key": config.password.reveal(),
            "Content-Type": "application/json",
        }
        body = msgspec.json.encode({"subdomain": config.subdomain, "txt": record.value})
        answer = await self._api.call("POST", f"{config.server_url.rstrip('/')}/update", headers=headers, body=body)
        remedy = "correct username, password and subdomain to those of one registration"
        self._api.check(answer, str(json_of(answer).get("error", "")), remedy)

    async def clean_up(self, record: TXTRecord) -> None:
        """Leave it: the server has no way to remove a value."""


CONFIG_TYPE = AcmeDNSConfig


def make(config: AcmeDNSConfig) -> Provider:
    """Return what sends them."""
    return AcmeDNS(config)
