"""Identifiers (RFC 8555 section 9.7.7, RFC 8738): read, and held against what profile and account may have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from coordinator.enrollment.acme.calls import Call
from coordinator.enrollment.acme.problems import Problem
from core.errors import InvalidInput
from core.names import Name, NameKind, parse_name
from core.patterns import matches

MOST_NAMES = 100
_KINDS = {"dns": NameKind.DNS, "ip": NameKind.IP}


class Identifier(msgspec.Struct, frozen=True):
    """One identifier as it is sent."""

    type: str
    value: str


class Wanted(NamedTuple):
    """A name, and what is validated of it: ``kind`` and ``value`` without the asterisk of a ``wildcard``."""

    name: Name
    kind: str
    value: str
    wildcard: bool


def read(identifiers: Sequence[Identifier], call: Call) -> list[Wanted]:
    """Return identifiers without repetitions; raise ``Problem`` with a subproblem for each that is refused."""
    if not identifiers:
        raise Problem("malformed", "identifiers: is empty; name at least one")
    if len(identifiers) > MOST_NAMES:
        raise Problem("malformed", f"identifiers: holds {len(identifiers)}; an order has at most {MOST_NAMES}")
    wanted, wrong = dict[Wanted, None](), list[tuple[str, str, dict[str, str]]]()
    for identifier in identifiers:
        try:
            one = read_one(identifier)
        except Problem as error:
            wrong.append((error.kind, error.detail, {"type": identifier.type[:20], "value": identifier.value[:260]}))
            continue
        wanted[one] = None
        wrong += [("rejectedIdentifier", why, identifier_of(one)) for why in _forbidden(one, call)]
    if wrong:
        kind = (
            "unsupportedIdentifier"
            if {each for each, _, _ in wrong} == {"unsupportedIdentifier"}
            else "rejectedIdentifier"
        )
        raise Problem(kind, "; ".join(dict.fromkeys(detail for _, detail, _ in wrong))[:500], subproblems=wrong)
    return list(wanted)


def read_one(identifier: Identifier) -> Wanted:
    """Return one identifier in canonical form; raise ``Problem``."""
    kind = _KINDS.get(identifier.type)
    if kind is None:
        detail = f"identifiers of the type {identifier.type[:20]!r} are not issued for; use dns or ip"
        raise Problem("unsupportedIdentifier", detail)
    try:
        name = parse_name(identifier.value)
    except InvalidInput as error:
        why = error.errors[0].problem if error.errors else error.detail
        raise Problem("rejectedIdentifier", f"{identifier.value[:100]!r} {why}") from error
    if name.kind is not kind or (kind is NameKind.IP and name.value != identifier.value):
        detail = f"{identifier.value[:100]!r} is not the canonical form of the type {identifier.type}"
        raise Problem("rejectedIdentifier", detail)
    wildcard = name.value.startswith("*.")
    return Wanted(name, identifier.type, name.value.removeprefix("*."), wildcard)


def identifier_of(wanted: Wanted) -> dict[str, str]:
    """Return a name as it is sent in orders."""
    return {"type": wanted.kind, "value": wanted.name.value}


def _forbidden(wanted: Wanted, call: Call) -> Iterator[str]:
    """Yield why an account may not have a name: its external account's key says less than the profile may."""
    account = call.account
    if account is None or account["eab_key_id"] is None:
        return
    if account["eab_ended"]:
        yield f"the external account key {account['eab_key_id']} was switched off or has expired"
    patterns = account["allowed_names"]
    if patterns and not any(matches(wanted.name, pattern) for pattern in patterns):
        yield f"{wanted.name} is not among the names that the external account key {account['eab_key_id']} allows"
    if wanted.wildcard and not account["wildcards"]:
        yield f"{wanted.name} is a wildcard, which the external account key {account['eab_key_id']} does not allow"
