"""Certificates that were issued elsewhere, taken into the inventory from PEM, PKCS#12 and Java key stores.

They are watched, not renewed: nobody here has their keys. A private key that comes along is dropped unread, and the
answer says so. Once a target or an agent is bound to one, a new key and certificate are issued for the same names.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from coordinator.audit import service as audit
from coordinator.certificates import store, wishes
from coordinator.certificates.opening import open_pkcs12
from coordinator.certificates.service import Caller
from coordinator.certificates.status import IMPORTED
from coordinator.certificates.views import Owned
from coordinator.context import Context
from coordinator.database import driver
from coordinator.database.connection import Transaction
from coordinator.issuance import service as issuance
from coordinator.policies import service as policies
from coordinator.profiles import service as profiles
from coordinator.profiles.service import Profile
from coordinator.web.scope import check_inside
from coordinator.web.table import Call, NoQuery, Permission, Route
from core import marks
from core.bundles import MOST_ENTRIES, Entry, read_keystore, read_pem
from core.crash import crash_point
from core.errors import Conflict, InvalidInput
from core.foreign import Foreign, chain_of, read_foreign
from core.ids import new_id
from core.secret import Secret

_KEY = "a private key: it was not stored, but has travelled, so replace it unless nobody else can have seen it"
_TWICE = "is in this file twice"


class Import(Owned, kw_only=True):
    """One file: ``pem`` as text, ``pkcs12`` or ``jks`` in base64 with its password; at most 1,000 entries.

    Certificates of authorities are kept for chains; all others become entries of the inventory that nobody holds yet.
    """

    pem: str | None = None
    pkcs12: bytes | None = None
    jks: bytes | None = None
    password: Annotated[str, msgspec.Meta(max_length=1000, extra_json_schema=marks.SECRET)] = ""


Outcome = Literal["imported", "duplicate", "authority", "dropped", "failed"]


class ImportedEntry(msgspec.Struct):
    """What became of one entry of the file, by its place or alias."""

    entry: str
    outcome: Outcome
    subject: str = ""
    fingerprint: str = ""
    certificate_id: str | None = None
    detail: str = ""


class Imported(msgspec.Struct):
    """Counts of the entries by what became of them, and each of them."""

    total: int
    imported: int
    duplicates: int
    authorities: int
    dropped: int
    failed: int
    entries: list[ImportedEntry]


async def take_in(call: Call[Import, NoQuery]) -> Imported:
    """Take the certificates of a file into the inventory; what is there already is recognised and left as it is."""
    body, tx = call.body, call.tx
    check_inside(call.actor, body.team_id, body.environment)
    profile = await profiles.get(tx, body.profile_id)
    if profile is None:
        raise InvalidInput.of("profile_id", f"there is no profile {body.profile_id}")
    found = await _read(call.ctx, body)
    authorities = [fact for _, fact in found if isinstance(fact, Foreign) and fact.is_authority]
    await issuance.keep_authorities(tx, [(each.fingerprint, each.der) for each in authorities])
    entries = await _sorted_out(call, found)
    new = [(told, fact) for told, fact in entries if told.outcome == "imported" and fact is not None]
    try:
        for told, fact in new:
            told.certificate_id = await _store(tx, body, profile, fact, chain_of(fact, authorities))
    except driver.ForeignKeyViolation as error:
        raise wishes.unknown_reference(error, body) from error
    except driver.UniqueViolation as error:
        detail = "somebody imports the same certificates at this moment; try again and they are duplicates"
        raise Conflict(detail) from error
    ids = [str(told.certificate_id) for told, _ in new]
    await store.stand_anew(tx, ids)
    await policies.note(tx, ids)
    caller = Caller(call.actor, call.request_id)
    for told, fact in new:
        await _record(tx, caller, told, fact)
    crash_point("certificate.imported")
    return _counted([told for told, _ in entries])


async def _read(ctx: Context, body: Import) -> list[tuple[Entry, Foreign | str]]:
    """Return the entries of the file, each with what it says, or why that cannot be read."""
    given = [name for name in ("pem", "pkcs12", "jks") if getattr(body, name) is not None]
    if len(given) != 1:
        raise InvalidInput.of("pem", "or pkcs12, or jks: give exactly one of them")
    password = Secret(body.password)
    if body.pkcs12 is not None:
        entries = await open_pkcs12(ctx, body.pkcs12, password)
    elif body.jks is not None:
        entries = await asyncio.to_thread(read_keystore, body.jks, password)
    else:
        entries = await asyncio.to_thread(read_pem, body.pem or "")
    return await asyncio.to_thread(lambda: [(entry, _facts(entry)) for entry in entries])


def _facts(entry: Entry) -> Foreign | str:
    if entry.kind != "certificate":
        return _KEY if entry.kind == "private key" else "is no certificate"
    try:
        return read_foreign(entry.der)
    except InvalidInput as error:
        return error.errors[0].problem


async def _sorted_out(
    call: Call[Import, NoQuery], found: Sequence[tuple[Entry, Foreign | str]]
) -> list[tuple[ImportedEntry, Foreign | None]]:
    """Say of each entry what it is; new certificates have the outcome ``imported`` already."""
    fingerprints = [fact.fingerprint for _, fact in found if isinstance(fact, Foreign)]
    known = {row["fingerprint"]: row for row in await store.with_fingerprints(call.tx, fingerprints)}
    seen, entries = set[str](), list[tuple[ImportedEntry, Foreign | None]]()
    for entry, fact in found:
        if isinstance(fact, str):
            outcome: Outcome = "dropped" if entry.kind == "private key" else "failed"
            entries.append((ImportedEntry(entry.name, outcome, detail=fact), None))
            continue
        told = ImportedEntry(entry.name, "imported", fact.subject, fact.fingerprint)
        row = known.get(fact.fingerprint)
        if row is not None:
            mine = not call.actor.scope.misses(row["team_id"], row["environment"])
            told.outcome, told.certificate_id = "duplicate", row["certificate_id"] if mine else None
            told.detail = "is in the inventory already" if mine else "is known already, outside of what you may see"
        elif fact.is_authority:
            told.outcome = "authority"
        elif fact.fingerprint in seen:
            told.outcome, told.detail = "duplicate", _TWICE
        elif fact.left_out:
            told.detail = f"{fact.left_out} of its names are of a kind that certctl does not ask for and are left out"
        seen.add(fact.fingerprint)
        entries.append((told, fact))
    return entries


async def _store(tx: Transaction, body: Import, profile: Profile, fact: Foreign, chain: Sequence[Foreign]) -> str:
    """Store a certificate with its one version; return its id."""
    certificate_id = new_id("mc")
    usual = fact.key_algorithm in profile.key_algorithms
    values = {
        "name": fact.common_name[:128],
        "common_name": fact.common_name,
        "names": fact.names,
        "profile_id": profile.id,
        "issuer_id": profile.default_issuer_id if body.issuer_id is None else body.issuer_id,
        "renewal_policy_id": body.renewal_policy_id,
        "owner_id": body.owner_id,
        "team_id": body.team_id,
        "environment": body.environment,
        "tags": body.tags,
        "key_algorithm": fact.key_algorithm if usual else profile.key_algorithms[0],
        "lifetime_s": profile.default_lifetime_s,
        "agent_id": None,
        "archived_at": None,
        "source": IMPORTED,
    }
    await store.TABLE.insert(tx, certificate_id, values)
    version = {
        "id": new_id("cv"),
        "certificate_id": certificate_id,
        "holder": IMPORTED,
        "serial": fact.serial,
        "fingerprint": fact.fingerprint,
        "spki_sha256": fact.spki_sha256,
        "key_algorithm": fact.key_algorithm,
        "not_before": fact.not_before,
        "not_after": fact.not_after,
        "der": fact.der,
        "chain": [link.fingerprint for link in chain],
    }
    await store.insert_foreign(tx, version)
    return certificate_id


async def _record(tx: Transaction, caller: Caller, told: ImportedEntry, fact: Foreign | None) -> None:
    assert fact is not None  # noqa: S101 - only what was read is imported
    details = {
        "subject": fact.subject,
        "fingerprint": fact.fingerprint,
        "serial": fact.serial,
        "not_after": fact.not_after,
        "entry": told.entry,
    }
    action, certificate_id = "certificate.imported", str(told.certificate_id)
    await audit.record(tx, caller.actor, action, "certificate", certificate_id, details, caller.request_id)


def _counted(entries: list[ImportedEntry]) -> Imported:
    count = Counter(entry.outcome for entry in entries)
    return Imported(
        total=len(entries),
        imported=count["imported"],
        duplicates=count["duplicate"],
        authorities=count["authority"],
        dropped=count["dropped"],
        failed=count["failed"],
        entries=entries,
    )


ROUTES = [
    Route(
        "POST",
        "/api/v1/certificates/import",
        take_in,
        Permission.CERTIFICATES_WRITE,
        f"Import up to {MOST_ENTRIES} certificates",
        Imported,
        request=Import,
        status=201,
        errors=(Conflict,),
    )
]
