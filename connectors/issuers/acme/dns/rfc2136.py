"""Records by dynamic update of a DNS server (RFC 2136), signed with a shared key (TSIG, RFC 8945)."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Annotated

import msgspec

from connectors.issuers.acme.dns.base import TTL_S, Provider, TXTRecord, parents
from core.errors import Forbidden, InvalidInput, Misconfigured, NotFound, Refused, Transient
from core.secret import Secret


class TSIGAlgorithm(StrEnum):
    """Algorithms of TSIG that are not broken."""

    HMAC_SHA224 = "hmac-sha224"
    HMAC_SHA256 = "hmac-sha256"
    HMAC_SHA384 = "hmac-sha384"
    HMAC_SHA512 = "hmac-sha512"


class RFC2136Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A DNS server that takes signed updates."""

    server: Annotated[str, msgspec.Meta(description="Name or address of the primary server.", min_length=1)]
    port: Annotated[int, msgspec.Meta(description="Its TCP and UDP port.", ge=1, le=65535)] = 53
    zone: Annotated[
        str, msgspec.Meta(description="Zone to write to; default: the server's zone that the name lies in.")
    ] = ""
    key_name: Annotated[str, msgspec.Meta(description="Name of the TSIG key, as the server has it.", min_length=1)]
    key_algorithm: Annotated[TSIGAlgorithm, msgspec.Meta(description="Its algorithm.")] = TSIGAlgorithm.HMAC_SHA256
    key_secret: Annotated[
        Secret[str], msgspec.Meta(description="The key itself in base64.", extra_json_schema={"secret": True})
    ]


class RFC2136:
    """Sends updates."""

    def __init__(self, config: RFC2136Config) -> None:
        self._config = config
        try:
            self._key = Secret(base64.b64decode(config.key_secret.reveal(), validate=True))
        except (binascii.Error, ValueError):
            raise InvalidInput.of("key_secret", "is not base64; copy it from the server's key file") from None

    async def present(self, record: TXTRecord) -> None:
        """Add a record."""
        await self._update(record, add=True)

    async def clean_up(self, record: TXTRecord) -> None:
        """Delete the record with this value."""
        await self._update(record, add=False)

    async def _update(self, record: TXTRecord, *, add: bool) -> None:
        import dns.rdataset  # noqa: PLC0415 - heavy, and of use with DNS challenges only
        import dns.tsig  # noqa: PLC0415 - see above
        import dns.update  # noqa: PLC0415 - see above

        from connectors.issuers.acme.dns import wire  # noqa: PLC0415 - see above

        config, name = self._config, wire.absolute(record.fqdn)
        where = await wire.address(config.server)
        zone = config.zone or await self._zone(where, record.fqdn)
        if not name.is_subdomain(wire.absolute(zone)):
            raise Misconfigured(
                f"{record.fqdn} does not lie in the zone {zone}; correct zone, or where its CNAME leads"
            )
        key = dns.tsig.Key(config.key_name, self._key.reveal(), str(config.key_algorithm))
        update = dns.update.UpdateMessage(zone, keyring=key)
        if add:
            update.add(name, TTL_S, wire.txt(record.value))
        else:
            update.delete(name, wire.txt(record.value))
        try:
            answer = await wire.ask(update, where, config.port, tcp=True)
        except dns.tsig.PeerError as error:
            raise Misconfigured(f"{config.server} does not take the key {config.key_name}: {error}") from error
        except dns.tsig.BadSignature as error:
            raise Misconfigured(f"the answer of {config.server} is not signed with {config.key_name}") from error
        self._check(int(answer.rcode()), zone)

    def _check(self, code: int, zone: str) -> None:
        import dns.rcode  # noqa: PLC0415 - heavy, and of use with DNS challenges only

        rcode = dns.rcode.Rcode(code)
        if rcode == dns.rcode.NOERROR:
            return
        detail = f"{self._config.server} answered {dns.rcode.to_text(rcode)} to an update of {zone}"
        if rcode == dns.rcode.REFUSED:
            raise Forbidden(f"{detail}; let the key {self._config.key_name} update TXT records there")
        if rcode in {dns.rcode.NOTAUTH, dns.rcode.NOTZONE}:
            raise Misconfigured(f"{detail}; name the server's own zone, and the primary server of it")
        raise (Transient if rcode == dns.rcode.SERVFAIL else Refused)(f"{detail}; look at its log")

    async def _zone(self, where: str, fqdn: str) -> str:
        """Return the server's zone that a name lies in, by asking the server itself."""
        import dns.message  # noqa: PLC0415 - heavy, and of use with DNS challenges only
        import dns.rdatatype  # noqa: PLC0415 - see above

        from connectors.issuers.acme.dns import wire  # noqa: PLC0415 - see above

        for candidate in parents(fqdn):
            name = wire.absolute(candidate)
            answer = await wire.ask(dns.message.make_query(name, dns.rdatatype.SOA), where, self._config.port)
            if any(rrset.rdtype == dns.rdatatype.SOA and rrset.name == name for rrset in answer.answer):
                return candidate
        raise NotFound(f"{self._config.server} has no zone that {fqdn} lies in; name one in zone, or another server")


CONFIG_TYPE = RFC2136Config


def make(config: RFC2136Config) -> Provider:
    """Return what sends them."""
    return RFC2136(config)
