"""Waiting until every authoritative server of a zone answers with a record, as an authority may ask any of them."""

from __future__ import annotations

from connectors import together
from connectors.issuers.acme.dns.lookup import DNSConfig, Server, servers_of, zone_of
from connectors.issuers.acme.polling import LoopTimer, Timer, until
from core.errors import Transient


async def wait(config: DNSConfig, fqdn: str, value: str, timer: Timer | None = None) -> None:
    """Return when all servers answer with ``value`` among the TXT records of ``fqdn``, at the latest in time.

    Raises ``DeadlineExceeded`` that names the servers which do not, and what they say instead.
    """
    timer, deadline_s = timer or LoopTimer(), config.propagation_deadline_s
    if deadline_s:
        lagging = await servers_of(config, await zone_of(config, fqdn))

        async def look() -> tuple[bool | None, float]:
            nonlocal lagging
            causes = await together.for_each(lagging, lambda server: _lag(server, config.port, fqdn, value))
            lagging = [server for server, cause in zip(lagging, causes, strict=True) if cause]
            if lagging:
                raise Transient("; ".join(cause for cause in causes if cause))
            return True, 0.0

        await until(look, what=f"waiting for the record {fqdn}", deadline_s=deadline_s, timer=timer)
    if config.settle_s:
        await timer.sleep(config.settle_s)


async def _lag(server: Server, port: int, fqdn: str, value: str) -> str:
    """Return why a server does not have the record yet, empty when it has; its first address that answers counts."""
    cause = ""
    for address in server.addresses:
        try:
            found = await _records(address, port, fqdn)
        except Transient as error:
            cause = cause or f"{server.name}: {error.detail}"
            continue
        if value in found:
            return ""
        said = ", ".join(sorted(found)[:3]) or "no such record"
        return f"{server.name} ({address}) answers with {said}"
    return cause


async def _records(address: str, port: int, fqdn: str) -> set[str]:
    import dns.flags  # noqa: PLC0415 - heavy, and of use with DNS challenges only
    import dns.message  # noqa: PLC0415 - see above
    import dns.rcode  # noqa: PLC0415 - see above
    import dns.rdatatype  # noqa: PLC0415 - see above

    from connectors.issuers.acme.dns import wire  # noqa: PLC0415 - see above

    query = dns.message.make_query(wire.absolute(fqdn), dns.rdatatype.TXT, flags=0)
    answer = await wire.ask(query, address, port)
    code = answer.rcode()
    if code not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        raise Transient(f"{address} answers {dns.rcode.to_text(code)}")
    sets = [rrset for rrset in answer.answer if rrset.rdtype == dns.rdatatype.TXT]
    return {b"".join(record.strings).decode(errors="replace") for rrset in sets for record in rrset}
