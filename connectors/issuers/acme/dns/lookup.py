"""Asking the DNS where a record has to be written and who answers for it."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from core.errors import Refused, Transient

_MOST_LINKS = 10
_MOST_SERVERS = 20
_LIFETIME_S = 15.0


class DNSConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the DNS is asked about records of challenges."""

    nameservers: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="Addresses of resolvers; default: those of the system.", max_length=10),
    ] = ()
    port: Annotated[int, msgspec.Meta(description="Port of all DNS servers.", ge=1, le=65535)] = 53
    propagation_deadline_s: Annotated[
        float,
        msgspec.Meta(
            description="Seconds until every server of the zone has to answer with the record; 0: do not look.",
            ge=0,
            le=7200,
        ),
    ] = 180.0
    settle_s: Annotated[
        float, msgspec.Meta(description="Seconds to wait after that, for servers that nobody sees.", ge=0, le=3600)
    ] = 0.0


class Server(NamedTuple):
    """A server of a zone with its addresses, those of IPv4 first."""

    name: str
    addresses: tuple[str, ...]


async def follow(config: DNSConfig, fqdn: str) -> str:
    """Return where the aliases (CNAME) of a name lead, which is the name itself where it has none.

    Raises ``Refused`` for aliases that lead nowhere.
    """
    seen = [fqdn]
    while (target := await _first(config, seen[-1], "CNAME")) is not None:
        name = target.rstrip(".").lower()
        if name in seen or len(seen) > _MOST_LINKS:
            raise Refused(f"the CNAME records of {fqdn} go round: {' → '.join([*seen, name])}; correct them")
        seen.append(name)
    return seen[-1]


async def zone_of(config: DNSConfig, fqdn: str) -> str:
    """Return the zone that a name lies in, without a dot at the end."""
    import dns.asyncresolver  # noqa: PLC0415 - heavy, and of use with DNS challenges only
    import dns.exception  # noqa: PLC0415 - see above
    import dns.resolver  # noqa: PLC0415 - see above

    from connectors.issuers.acme.dns import wire  # noqa: PLC0415 - see above

    try:
        zone = await dns.asyncresolver.zone_for_name(
            wire.absolute(fqdn), resolver=_resolver(config), backend=wire.backend()
        )
    except (dns.resolver.NoRootSOA, dns.exception.DNSException, OSError) as error:
        raise Transient(f"the zone of {fqdn} was not found: {error}") from error
    return zone.to_text(omit_final_dot=True)


async def servers_of(config: DNSConfig, zone: str) -> list[Server]:
    """Return the servers of a zone; raise ``Transient`` when there is none that has an address."""
    names = sorted(await _all(config, zone, "NS"))[:_MOST_SERVERS]
    found = []
    for name in names:
        addresses = [*await _all(config, name, "A"), *await _all(config, name, "AAAA")]
        if addresses:
            found.append(Server(name.rstrip("."), tuple(addresses)))
    if not found:
        raise Transient(f"the zone {zone} has no server with an address")
    return found


async def _first(config: DNSConfig, name: str, kind: str) -> str | None:
    found = await _all(config, name, kind)
    return found[0] if found else None


async def _all(config: DNSConfig, name: str, kind: str) -> list[str]:
    """Return the records of a name as text, none where there is no such name."""
    import dns.exception  # noqa: PLC0415 - heavy, and of use with DNS challenges only
    import dns.resolver  # noqa: PLC0415 - see above

    from connectors.issuers.acme.dns import wire  # noqa: PLC0415 - see above

    try:
        answer = await _resolver(config).resolve(
            wire.absolute(name), kind, raise_on_no_answer=False, search=False, backend=wire.backend()
        )
    except dns.resolver.NXDOMAIN:
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise Transient(f"{name} could not be looked up: {error}") from error
    return [record.to_text() for record in answer.rrset or ()]


def _resolver(config: DNSConfig) -> dns.asyncresolver.Resolver:  # type: ignore[name-defined]  # noqa: F821 - not imported yet
    import dns.asyncresolver  # noqa: PLC0415 - heavy, and of use with DNS challenges only
    import dns.resolver  # noqa: PLC0415 - see above

    try:
        resolver = dns.asyncresolver.Resolver(configure=not config.nameservers)
        if config.nameservers:
            resolver.nameservers = list(config.nameservers)
            resolver.port = config.port
    except (dns.resolver.NoResolverConfiguration, ValueError) as error:
        raise Transient(f"no resolver is usable: {error}; name some in nameservers") from error
    resolver.lifetime = _LIFETIME_S
    return resolver
