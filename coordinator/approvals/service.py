"""What the gate asks about: whether an approval is needed, and the request for one.

Nothing here decides or signs. What is wanted is written down in full when the CSR is there; it is compared again with
every vote and once more by the gate before it signs. An approval is open exactly while its job waits for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, get_args

import msgspec
from cryptography import x509

from connectors.issuers.local import usage_oids
from coordinator.access import service as access
from coordinator.approvals import store
from coordinator.audit import service as audit
from coordinator.bindings import service as bindings
from coordinator.database.connection import Transaction
from coordinator.database.driver import Columns
from coordinator.database.driver import Record as Row
from coordinator.notifications import service as notifications
from coordinator.notifications.service import Event
from coordinator.profiles.service import Profile, Usage
from coordinator.web.table import Actor
from core.certificates import read_certificate
from core.ids import new_id
from core.names import Name
from core.renewal import backdating

APPROVALS_TOPIC = "approvals"
NOBODY = "system"
_CLIENT = "client"
"""The holder where no agent is one."""


class Wanted(msgspec.Struct, frozen=True):
    """All that a certificate will say and that somebody could have chosen; of the CSR, which one it is."""

    common_name: str
    names: tuple[str, ...]
    key_algorithm: str
    lifetime_s: int
    issuer_id: str
    extended_key_usages: tuple[str, ...]
    must_staple: bool
    spki_sha256: str
    csr_sha256: str
    profile_revision: int

    @property
    def content(self) -> tuple[object, ...]:
        """Return what a renewal has in common with what it renews."""
        fields = msgspec.structs.asdict(self)
        return tuple(fields[name] for name in self.__struct_fields__[: self.__struct_fields__.index("spki_sha256")])


class Question(NamedTuple):
    """What persons are asked: by whom (``actor``), for which job, and who is behind it and may not answer."""

    actor: Actor
    job: Columns
    profile: Profile
    wanted: Wanted
    requested_by: Sequence[str]


class Change(msgspec.Struct, frozen=True):
    """What is different from the last version; ``before`` is empty where there is none."""

    field: str
    before: str
    after: str


def wanted(certificate: Columns, profile: Profile, spki_sha256: str, csr: bytes) -> Wanted:
    """Return what is asked for by a CSR for a certificate as it is wanted now, under its profile as it is now."""
    return Wanted(
        common_name=certificate["common_name"],
        names=tuple(sorted(str(name) for name in msgspec.convert(certificate["names"], tuple[Name, ...]))),
        key_algorithm=certificate["key_algorithm"],
        lifetime_s=certificate["lifetime_s"],
        issuer_id=certificate["issuer_id"],
        extended_key_usages=profile.extended_key_usages,
        must_staple=profile.must_staple,
        spki_sha256=spki_sha256,
        csr_sha256=hashlib.sha256(csr).hexdigest(),
        profile_revision=profile.revision,
    )


def read_wanted(stored: dict[str, Any]) -> Wanted:
    """Return what was written down."""
    return msgspec.convert(stored, Wanted)


async def needed(tx: Transaction, job: Columns, profile: Profile, asked: Wanted) -> bool:
    """Say whether persons have to agree first. Whoever cannot find that out must not sign: errors pass through."""
    if not profile.requires_approval:
        return False
    if profile.approve_renewals:
        return True
    last = await store.last_approved(tx, job["certificate_id"], job["agent_id"])
    return last is None or read_wanted(last).content != asked.content


async def ask(tx: Transaction, question: Question, open_for: timedelta, request_id: str) -> None:
    """Request an approval of what a job shall bring about, to be given within ``open_for``."""
    actor, job, profile, asked = question.actor, question.job, question.profile, question.wanted
    certificate_id, agent_id = job["certificate_id"], job["agent_id"]
    requested_by = list(question.requested_by) or [NOBODY]
    approval_id = new_id("apr")
    changes = await _changes(tx, certificate_id, agent_id, asked)
    approval = {
        "id": approval_id,
        "job_id": job["id"],
        "certificate_id": certificate_id,
        "agent_id": agent_id,
        "profile_id": profile.id,
        "requested_by": requested_by,
        "persons": await access.persons_behind(tx, requested_by),
        "required": profile.approvals_required,
        "wanted": msgspec.to_builtins(asked),
        "changes": msgspec.to_builtins(changes),
    }
    await store.insert(tx, approval, open_for)
    if agent_id is not None:
        await bindings.explain(tx, certificate_id, agent_id, f"waits for approval ({approval_id})")
    details = {
        "approval_id": approval_id,
        "job_id": job["id"],
        "requested_by": requested_by,
        "required": profile.approvals_required,
        "changes": [change.field for change in changes],
    }
    await audit.record(tx, actor, "approval.requested", "certificate", certificate_id, details, request_id)
    event = Event(
        key=f"approval:{approval_id}",
        type="approval_requested",
        severity="warning",
        subject=f"{asked.common_name} waits for approval",
        message=_told(approval_id, certificate_id, requested_by, profile, changes),
        certificate_id=certificate_id,
        to_all=True,
    )
    await notifications.tell(tx, event)
    tx.wake(APPROVALS_TOPIC)


def _told(
    approval_id: str, certificate_id: str, requested_by: list[str], profile: Profile, changes: list[Change]
) -> str:
    lines = [
        f"Certificate {certificate_id} needs the word of {profile.approvals_required} (profile {profile.id}).",
        f"Asked for by {', '.join(requested_by)}. Approval: {approval_id}",
        *(f"{change.field}: {change.before or 'nothing'} -> {change.after}" for change in changes),
    ]
    return "\n".join(lines)


async def _changes(tx: Transaction, certificate_id: str, agent_id: str | None, asked: Wanted) -> list[Change]:
    last = await store.last_version(tx, certificate_id, agent_id or _CLIENT)
    return list(_compared(last, asked))


def _compared(last: Row | None, asked: Wanted) -> Iterator[Change]:
    """Yield what differs from the newest version, or all there is when this is the first."""
    facts = None if last is None else read_certificate(last["der"])
    before = {
        "common_name": (facts.common_name or asked.common_name) if facts else "",
        "names": " ".join(sorted(map(str, facts.names))) if facts else "",
        "key_algorithm": facts.key_algorithm if facts else "",
        "issuer_id": last["issuer_id"] if last else "",
        "extended_key_usages": _usages(last["der"]) if last else "",
    }
    after = {
        "common_name": asked.common_name,
        "names": " ".join(asked.names),
        "key_algorithm": asked.key_algorithm,
        "issuer_id": asked.issuer_id,
        "extended_key_usages": " ".join(sorted(asked.extended_key_usages)),
    }
    for field, value in after.items():
        if before[field] != value:
            yield Change(field, before[field], value)
    lifetime = timedelta(seconds=asked.lifetime_s)
    lived = None if last is None else last["not_after"] - last["not_before"] - backdating(lifetime)
    if lived is None or abs(lived - lifetime) > timedelta(seconds=1):
        before_s = "" if lived is None else str(round(lived.total_seconds()))
        yield Change("lifetime_s", before_s, str(asked.lifetime_s))


def _usages(der: bytes) -> str:
    extensions = x509.load_der_x509_certificate(der).extensions
    try:
        found = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ""
    oids = {oid.dotted_string for oid in found}
    return " ".join(sorted(usage for usage in get_args(Usage) if oids.issuperset(usage_oids((usage,)))))
