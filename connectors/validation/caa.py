"""CAA: whom a domain lets issue (RFC 8659), by which account and challenge (RFC 8657).

The tree is climbed at every resolver for itself, and every resolver that answers has to permit. One that fails
(SERVFAIL, silence) does not; when all of them do, issuing is refused.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from dns.rdtypes.ANY.CAA import CAA

from connectors import together
from connectors.validation import issue_value
from connectors.validation.lookups import Resolvers, Server
from connectors.validation.model import Record, Settings, printable

_CRITICAL = 0x80
_KNOWN = {"issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"}
_ISSUE, _ISSUE_WILD = "issue", "issuewild"


class Request(NamedTuple):
    """What is to be issued: for a domain without its ``*.``, by which challenge of which account."""

    domain: str
    wildcard: bool
    account_url: str
    challenge: str
    identities: tuple[str, ...]


class Climbed(NamedTuple):
    """Where a resolver has records, and which; or why it did not answer."""

    server: Server
    domain: str
    records: tuple[CAA, ...] = ()
    problem: str = ""


async def check(request: Request, resolvers: Resolvers, record: Record) -> None:
    """Look whether CAA permits it; raises ``Failed``."""
    record.asked = f"CAA records of {request.domain} and above"
    servers = resolvers.servers(record)
    climb = partial(_climb, domain=request.domain, resolvers=resolvers, record=record)
    found = await together.for_each(servers, climb, len(servers))
    usable = [one for one in found if not one.problem]
    if not usable:
        told = ", ".join(f"{one.server} said {one.problem} for {one.domain}" for one in found)
        detail = f"the CAA records of {request.domain} are not known: {told}; see that its zone answers for CAA"
        raise record.failed("caa", detail)
    record.answer = printable(
        ", ".join(dict.fromkeys(shown(one) for climbed in usable for one in climbed.records)) or "none"
    )
    for climbed in usable:
        if why := why_not(climbed.records, request):
            raise record.failed("caa", f"the CAA records of {climbed.domain} forbid this certificate: {why}")


async def _climb(server: Server, domain: str, resolvers: Resolvers, record: Record) -> Climbed:
    """Find the nearest records, from the domain up to its top (RFC 8659 section 3)."""
    labels = domain.split(".")
    for start in range(len(labels)):
        at = ".".join(labels[start:])
        reply = await resolvers.ask_one(server, at, "CAA", record)
        if reply.records or reply.problem:
            records = tuple(one for one in reply.records if isinstance(one, CAA))
            return Climbed(server, at, records, reply.problem)
    return Climbed(server, domain)


def why_not(records: tuple[CAA, ...], request: Request) -> str:
    """Say why a set of records forbids it, and what to do; empty when it does not (RFC 8659 section 4)."""
    for one in records:
        if one.flags & _CRITICAL and _tag(one) not in _KNOWN:
            return f"the property {shown(one)} is critical and not known here; remove it, or its flag"
    by_tag = {tag: [one for one in records if _tag(one) == tag] for tag in (_ISSUE, _ISSUE_WILD)}
    tag = _ISSUE_WILD if request.wildcard and by_tag[_ISSUE_WILD] else _ISSUE
    reasons = [_why_not_by(one, request) for one in by_tag[tag]]
    if not reasons or "" in reasons:
        return ""
    wanted = f'add: CAA 0 {tag} "{request.identities[0]}"'
    return f"{'; '.join(reasons[:3])}; {wanted}"


def _why_not_by(one: CAA, request: Request) -> str:
    """Say why this property does not permit it (RFC 8659 section 4.2, RFC 8657 sections 3 and 4)."""
    try:
        value = issue_value.read(one.value.decode("ascii"))
    except ValueError:
        return f"{shown(one)} cannot be read"
    if not value.issuer or value.issuer not in {name.lower().removesuffix(".") for name in request.identities}:
        return f"{shown(one)} is not for this authority"
    if (accounts := value.all("accounturi")) and accounts != [request.account_url]:
        return f"{shown(one)} is not for the account {request.account_url}"
    methods = value.all("validationmethods")
    if methods and (len(methods) > 1 or request.challenge not in methods[0].split(",")):
        return f"{shown(one)} is not for the challenge {request.challenge}"
    return ""


def _tag(one: CAA) -> str:
    return one.tag.decode("ascii").lower()


def shown(one: CAA) -> str:
    """Return a property as zone files have it."""
    return printable(f'{one.flags} {_tag(one)} "{one.value.decode("ascii", "backslashreplace")}"', 120)


def request_of(settings: Settings, domain: str, *, wildcard: bool, account_url: str, challenge: str) -> Request:
    """Return the request for a name as ordered, with or without its ``*.``."""
    base = domain.removeprefix("*.")
    return Request(base, wildcard or base != domain, account_url, challenge, settings.caa_identities)
