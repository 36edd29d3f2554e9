"""From a host to the addresses that are dialled: resolved once, checked, and used as they are.

What connects is given an address and never a name, so no second answer of the DNS can lead elsewhere.
"""

from __future__ import annotations

from ipaddress import ip_address

from connectors.validation.addresses import Address, why_refused
from connectors.validation.lookups import Reply, Resolvers, answered, problems, shared
from connectors.validation.model import Record, Settings


async def dialled(host: str, resolvers: Resolvers, settings: Settings, record: Record) -> list[Address]:
    """Return one IPv6 and one IPv4 address of ``host``, those there are, in the order in which they are tried.

    ``host`` is an address or a DNS name. Fails when there is none, or none that may be dialled.
    """
    try:
        known: list[Address] = [ip_address(host)]
    except ValueError:
        known = await _resolved(host, resolvers, record)
    verdicts = [
        (address, why_refused(address, settings.allowed_networks, private=settings.private_networks))
        for address in known
    ]
    refusals = [f"{address} {why}" for address, why in verdicts if why]
    usable = [address for address, why in verdicts if not why]
    if not usable:
        detail = (
            f"{host} is not asked, since {'; '.join(refusals[:3])}: let the name point to an address that may be "
            "dialled, or let the operator allow that network for ACME validations"
        )
        raise record.failed("connection", detail)
    firsts = (next((a for a in usable if a.version == version), None) for version in (6, 4))
    return [address for address in firsts if address]


async def _resolved(host: str, resolvers: Resolvers, record: Record) -> list[Address]:
    replies = await resolvers.ask(host, ("AAAA", "A"), record)
    found = [ip_address(str(one)) for kind in replies for one in shared(kind)]
    if not found:
        raise record.failed("dns", _no_address(host, [reply for kind in replies for reply in kind]))
    return found


def _no_address(host: str, replies: list[Reply]) -> str:
    if silent := problems(replies):
        return f"no A or AAAA record of {host} was found: {silent}; see that its zone is served, then try again"
    if any(reply.records for reply in answered(replies)):
        return f"the resolvers do not agree on an address of {host}; wait until its zone is the same everywhere"
    return f"{host} has no A and no AAAA record; add one that points to the server to be validated"
