"""Certificates whose key is a foreign client's: the inventory follows what it orders, nobody here renews them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from coordinator.audit import service as audit
from coordinator.certificates import store, wishes
from coordinator.certificates.views import CertificateBody
from coordinator.database.connection import Transaction
from coordinator.policies import service as policies
from coordinator.profiles.service import Profile
from core.crash import crash_point
from core.ids import new_id
from core.keys import KeyAlgorithm
from core.names import Name, NameKind

if TYPE_CHECKING:
    from coordinator.certificates.service import Caller


class Enrolled(NamedTuple):
    """What a client wants, and whose its certificate is; ``lifetime_s`` None is the profile's.

    The profile is as it was read in the same transaction.
    """

    source: str
    names: Sequence[Name]
    profile: Profile
    key_algorithm: KeyAlgorithm
    lifetime_s: int | None
    owner_id: str
    team_id: str
    environment: str


async def create(tx: Transaction, caller: Caller, wanted: Enrolled) -> str:
    """Take a certificate that a client orders for the first time into the inventory; return its id.

    Raises ``Refused`` for what the profile or a rule forbids.
    """
    certificate_id, values = new_id("mc"), wishes.row_under(wanted.profile, _body(wanted))
    await store.TABLE.insert(tx, certificate_id, {**values, "source": wanted.source})
    await policies.check(tx, certificate_id)
    told = {"source": wanted.source, "names": [str(name) for name in wanted.names], "profile_id": wanted.profile.id}
    await audit.record(tx, caller.actor, "certificate.created", "certificate", certificate_id, told, caller.request_id)
    crash_point("certificate.enrolled")
    return certificate_id


async def order_again(tx: Transaction, certificate_id: str, wanted: Enrolled) -> None:
    """Hold a known certificate against profile and rules as they are now, locked; note the key and lifetime ordered.

    One that was archived is taken up again.
    """
    (before,) = await store.locked(tx, [certificate_id])
    values = wishes.row_under(wanted.profile, _body(wanted))
    kept = {
        name: before[name]
        for name in ("name", "common_name", "names", "renewal_policy_id", "owner_id", "team_id", "environment", "tags")
    }
    values |= {**kept, "source": before["source"]}
    if wishes.changes(before, values):
        await store.TABLE.replace(tx, certificate_id, values)
    await policies.check(tx, certificate_id)


def _body(wanted: Enrolled) -> CertificateBody:
    """Return the wish; a DNS name comes first, since the first one becomes the subject's common name."""
    names = sorted(wanted.names, key=lambda name: name.kind is not NameKind.DNS)
    return CertificateBody(
        common_name=names[0].value,
        sans=tuple(name.value for name in names[1:]),
        profile_id=wanted.profile.id,
        owner_id=wanted.owner_id,
        team_id=wanted.team_id,
        environment=wanted.environment,
        key_algorithm=wanted.key_algorithm,
        lifetime_s=wanted.lifetime_s,
    )
