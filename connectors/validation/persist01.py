"""dns-persist-01: a TXT record that stays, and names an authority and an account (draft-ietf-acme-dns-persist).

What the draft allows and this leaves out: a record with ``policy=wildcard`` counts for its name and that name's
wildcard, not for names below it; and nothing is looked up before a client asks for it.
"""

from __future__ import annotations

import re

from connectors.validation import issue_value
from connectors.validation.dns01 import found_texts, text_of, texts
from connectors.validation.lookups import Reply, Resolvers, majority
from connectors.validation.model import Asked, Record, Settings, printable
from core.acme import dns_name

_ONCE = "accounturi", "policy", "persistuntil"
_SECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)


async def validate(asked: Asked, settings: Settings, resolvers: Resolvers, record: Record) -> None:
    """Look whether a record names us and the account; raises ``Failed``."""
    if not settings.persist_issuers:
        detail = "this server has no issuer domain name for dns-persist-01; use another challenge"
        raise record.failed("serverInternal", detail)
    where = dns_name(asked.name.value, persist=True)
    now = record.at.timestamp()
    replies = await texts(where, resolvers, record)

    def good(reply: Reply) -> bool:
        return any(not why_not(text_of(one), asked, settings.persist_issuers, now) for one in reply.records)

    if majority(replies, good):
        return
    found = found_texts(replies)
    reasons = [why for text in found if (why := why_not(text, asked, settings.persist_issuers, now))]
    wanted = f"{settings.persist_issuers[0]}; accounturi={asked.account_url}{'; policy=wildcard' * asked.wildcard}"
    if len(reasons) < len(found):
        detail = f"only some of the resolvers see the record at {where}; wait until its zone is the same everywhere"
    elif reasons:
        detail = f"no TXT record at {where} counts: {'; '.join(reasons[:3])}. Add one with {wanted!r}"
    else:
        detail = f"no TXT record was found at {where}; add one with {wanted!r}"
    raise record.failed("unauthorized", detail)


def why_not(text: str, asked: Asked, issuers: tuple[str, ...], now: float) -> str:
    """Say why a record does not count at ``now`` (seconds of Unix time); empty when it does."""
    shown = printable(text, 100)
    try:
        value = issue_value.read(text)
    except ValueError:
        return f"{shown!r} does not follow the grammar of RFC 8659 section 4.2"
    if value.issuer not in {issuer.lower().removesuffix(".") for issuer in issuers}:
        return f"{shown!r} names another issuer"
    why = _why_not_for(value, asked, now)
    return f"{shown!r} {why}" if why else ""


def _why_not_for(value: issue_value.IssueValue, asked: Asked, now: float) -> str:
    for tag in _ONCE:
        if len(value.all(tag)) > 1:
            return f"has {tag} more than once"
    if value.all("accounturi") != [asked.account_url]:
        return "names another account as its accounturi"
    for until in value.all("persistuntil"):
        if not _SECONDS.fullmatch(until):
            return "has a persistUntil that is not a number of seconds"
        if now > int(until):
            return "has ended by its persistUntil"
    if asked.wildcard and [policy.lower() for policy in value.all("policy")] != ["wildcard"]:
        return "lacks policy=wildcard, which a wildcard needs"
    return ""
