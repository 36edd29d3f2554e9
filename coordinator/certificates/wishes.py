"""From what a caller wants to a certificate's row: names in canonical form, defaults filled in, the rules checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coordinator.certificates.views import CertificateBody, Owned
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.profiles import service as profiles
from coordinator.profiles.service import Profile
from core.errors import Conflict, FieldError, InvalidInput
from core.names import Name, NameKind, parse_name

MOST_NAMES = 100
CONTENT = ("common_name", "names", "profile_id", "issuer_id", "key_algorithm", "lifetime_s")
"""What a certificate is made from: when one of these changes, what was issued before is not what is wanted any more."""
_REFERENCES = ("issuer_id", "renewal_policy_id", "owner_id", "team_id", "agent_id")


def wanted_names(common_name: str, sans: Sequence[str]) -> tuple[Name, ...]:
    """Return the certificate's names in canonical form without repetitions, the common name first."""
    if len(sans) > MOST_NAMES:
        raise InvalidInput.of("sans", f"holds {len(sans)} names; a certificate has at most {MOST_NAMES}")
    first = parse_name(common_name, field="common_name")
    if first.kind is NameKind.URI:
        raise InvalidInput.of("common_name", "is a URI; put it into sans and give a host name, address or e-mail here")
    others = (parse_name(text, field=f"sans[{place}]") for place, text in enumerate(sans))
    return tuple(dict.fromkeys((first, *others)))


async def row_of(conn: Connection, body: CertificateBody, before: Row | None = None) -> dict[str, Any]:
    """Return the columns of a wanted certificate; ``before`` is the row that it replaces.

    Raises ``InvalidInput`` for names and a profile that do not exist, ``Refused`` for what the profile forbids. A
    change that leaves the content alone is not held against a profile that may have become stricter meanwhile.
    """
    profile = await profiles.get(conn, body.profile_id)
    if profile is None:
        raise InvalidInput.of("profile_id", f"there is no profile {body.profile_id}")
    return row_under(profile, body, before)


def row_under(profile: Profile, body: CertificateBody, before: Row | None = None) -> dict[str, Any]:
    """Return the same under the body's profile as it was read in this transaction."""
    names = wanted_names(body.common_name, body.sans)
    row: dict[str, Any] = {
        "name": body.name or names[0].value,
        "common_name": names[0].value,
        "names": names,
        "profile_id": profile.id,
        "issuer_id": profile.default_issuer_id if body.issuer_id is None else body.issuer_id,
        "renewal_policy_id": body.renewal_policy_id,
        "owner_id": body.owner_id,
        "team_id": body.team_id,
        "environment": body.environment,
        "tags": body.tags,
        "key_algorithm": body.key_algorithm or profile.key_algorithms[0],
        "lifetime_s": body.lifetime_s or profile.default_lifetime_s,
        "agent_id": body.agent_id,
        "archived_at": None,
        "source": "api" if before is None else before["source"],
    }
    if before is None or content_differs(before, row):
        profile.check(names, row["key_algorithm"], row["lifetime_s"], row["issuer_id"])
    return row


def content_differs(before: Row, row: Mapping[str, Any]) -> bool:
    """Say whether a certificate that was issued for ``before`` is not what ``row`` wants."""
    return bool(set(changes(before, row)) & set(CONTENT))


def changes(before: Row, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns whose values are new, as plain values."""
    return {name: value for name, value in _plain(row).items() if _plain({name: before[name]})[name] != value}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(row)))
    return plain


def present(row: Row, target_ids: Sequence[str]) -> dict[str, Any]:
    """Return a row as the fields of a body, for a patch to be merged into; ``sans`` beside the common name."""
    other = [name["value"] for name in row["names"][1:]]
    fields = {name: row[name] for name in CertificateBody.__struct_fields__ if name not in {"sans", "target_ids"}}
    return {**fields, "sans": other, "target_ids": list(target_ids)}


def taken(error: Exception, certificate_id: str) -> Conflict:
    """Say what is there already; the database names the constraint."""
    if getattr(error, "constraint_name", "") == "bindings_target":
        problem = "one of these targets serves another certificate already; a target takes one, so make another target"
        return Conflict(f"target_ids: {problem}", errors=(FieldError("target_ids", problem),))
    return Conflict(f"a certificate with the id {certificate_id} is there already")


def unknown_reference(error: Exception, body: Owned) -> InvalidInput:
    """Say which of the named things does not exist; the database names the constraint, we name the field."""
    constraint = str(getattr(error, "constraint_name", ""))
    field = next((name for name in _REFERENCES if name in constraint), "agent_id")
    return InvalidInput.of(field, f"there is no {getattr(body, field, '')}")
