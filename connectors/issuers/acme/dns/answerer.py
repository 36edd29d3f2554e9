"""The answer to a DNS challenge: one record, where the aliases of its name lead to, seen by all servers of the zone.

Validation may be delegated: ``_acme-challenge.www.example.com CNAME www.validation.example.net`` has the record written
in another zone, so that what writes it cannot touch ``example.com`` (RFC 8555 section 8.4 follows aliases).
"""

from __future__ import annotations

from connectors.issuers.acme.challenges import Challenge
from connectors.issuers.acme.dns import propagation
from connectors.issuers.acme.dns.base import Provider, TXTRecord
from connectors.issuers.acme.dns.lookup import DNSConfig, follow
from connectors.issuers.acme.polling import Timer
from core.acme import DNS_PERSIST_01


class DNSAnswerer:
    """Answers dns-01, dns-account-01 and dns-persist-01 by one provider."""

    def __init__(self, provider: Provider, config: DNSConfig, timer: Timer | None = None) -> None:
        self._provider, self._config, self._timer = provider, config, timer

    async def present(self, challenge: Challenge) -> None:
        """Write the record and wait until it is seen."""
        record = await self._record(challenge)
        await self._provider.present(record)
        await propagation.wait(self._config, record.fqdn, record.value, self._timer)

    async def clean_up(self, challenge: Challenge) -> None:
        """Remove the record, unless it is one that is meant to stay (dns-persist-01)."""
        if challenge.type != DNS_PERSIST_01:
            await self._provider.clean_up(await self._record(challenge))

    async def _record(self, challenge: Challenge) -> TXTRecord:
        fqdn = await follow(self._config, challenge.dns_name)
        return TXTRecord(fqdn, challenge.dns_value, challenge.name.value, challenge.token)
