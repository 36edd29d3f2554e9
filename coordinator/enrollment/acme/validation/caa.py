"""CAA (RFC 8659, RFC 8657): whether the owner of a domain lets this authority issue for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from coordinator.enrollment.acme.validation.dns import Resolvers
from coordinator.enrollment.acme.validation.outcome import Evidence, Failed

_CRITICAL = 0x80
_KNOWN = frozenset({"issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"})


class _Record(NamedTuple):
    critical: bool
    tag: str
    value: str


async def check(
    domain: str,
    identities: Sequence[str],
    resolvers: Resolvers,
    evidence: Evidence,
    *,
    wildcard: bool,
    account_url: str,
    method: str,
) -> None:
    """Raise ``Failed`` unless the records nearest to a domain allow one of our identities (RFC 8659 section 3)."""
    records, found_at = await _relevant(domain, resolvers, evidence)
    unknown = [record.tag for record in records if record.critical and record.tag not in _KNOWN]
    if unknown:
        raise Failed("caa", f"{found_at} has a critical CAA property {unknown[0]!r} that is not known here", evidence)
    tag = "issuewild" if wildcard and any(record.tag == "issuewild" for record in records) else "issue"
    issuing = [record for record in records if record.tag == tag]
    if not issuing or any(_allows(record.value, identities, account_url, method) for record in issuing):
        return
    shown = "; ".join(f"{record.tag} {record.value!r}" for record in issuing)
    detail = f"CAA of {found_at} ({shown}) does not allow {' or '.join(identities)} to issue for {domain}"
    raise Failed("caa", detail, evidence)


async def _relevant(domain: str, resolvers: Resolvers, evidence: Evidence) -> tuple[list[_Record], str]:
    """Return the records of a domain or of the nearest one above that has any."""
    labels = domain.split(".")
    for place in range(len(labels)):
        name = ".".join(labels[place:])
        for answer in await resolvers.ask(name, "CAA", evidence):
            if answer is not None:
                found = [
                    _Record(
                        bool(each.flags & _CRITICAL), each.tag.decode().lower(), each.value.decode(errors="replace")
                    )
                    for each in answer
                ]
                return found, name
    return [], ""


def _allows(value: str, identities: Sequence[str], account_url: str, method: str) -> bool:
    issuer, *parameters = (part.strip() for part in value.split(";"))
    if issuer.lower().rstrip(".") not in identities:
        return False
    given = {
        name.strip().lower(): text.strip() for name, _, text in (each.partition("=") for each in parameters if each)
    }
    if "accounturi" in given and given["accounturi"] != account_url:
        return False
    methods = given.get("validationmethods")
    return methods is None or method in {each.strip() for each in methods.split(",")}
