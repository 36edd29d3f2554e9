"""dns-01 and dns-account-01: the digest of the key authorization in a TXT record.

RFC 8555 section 8.4, draft-ietf-acme-dns-account-label. The latter has a label of the account's own in front, so that
several accounts can hold records of one name.
"""

from __future__ import annotations

import dns.rdata

from connectors.validation.lookups import Reply, Resolvers, answered, majority, problems
from connectors.validation.model import Asked, Record, Settings, printable
from core.acme import DNS_ACCOUNT_01, dns_name, key_authorization, txt_value


async def validate(asked: Asked, _settings: Settings, resolvers: Resolvers, record: Record) -> None:
    """Look whether the digest stands in the DNS; raises ``Failed``."""
    account_url = asked.account_url if asked.type == DNS_ACCOUNT_01 else ""
    where = dns_name(asked.name.value, account_url)
    expected = txt_value(key_authorization(asked.token, asked.thumbprint))
    replies = await texts(where, resolvers, record)
    if majority(replies, lambda reply: expected in map(text_of, reply.records)):
        record.answer = expected
        return
    found = found_texts(replies)
    if not found:
        raise record.failed("incorrectResponse", f"no TXT record was found at {where}; add one with {expected}")
    if expected in found:
        detail = (
            f"only some of the resolvers see the TXT record {expected} at {where}; wait until its zone is the same "
            "everywhere, then order again"
        )
        raise record.failed("incorrectResponse", detail)
    detail = f"the TXT records at {where} are {record.answer}, and none of them is {expected}; add one that is"
    raise record.failed("incorrectResponse", detail)


async def texts(where: str, resolvers: Resolvers, record: Record) -> list[Reply]:
    """Return the replies for TXT records; fails when nobody answered."""
    record.asked = f"TXT records of {where}"
    (replies,) = await resolvers.ask(where, ("TXT",), record)
    if not answered(replies):
        detail = f"nobody told the TXT records of {where}: {problems(replies)}; see that its zone is served"
        raise record.failed("dns", detail)
    record.answer = printable(", ".join(map(repr, found_texts(replies))) or "none")
    return replies


def found_texts(replies: list[Reply]) -> list[str]:
    """Return the different texts that were seen, in the order they were seen in."""
    return list(dict.fromkeys(text_of(one) for reply in replies for one in reply.records))


def text_of(one: dns.rdata.Rdata) -> str:
    """Return the strings of a TXT record as one (RFC 8555 section 8.4 leaves that to its readers)."""
    return b"".join(getattr(one, "strings", ())).decode("utf-8", "backslashreplace")
