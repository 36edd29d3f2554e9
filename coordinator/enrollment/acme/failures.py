"""Failed validations of a name, counted for each account by all coordinators together.

A client that has lost its DNS or its web server asks again and again, and each time the coordinator goes out and looks.
So an account that has failed too often for a name waits, for that name alone: no order and no challenge of it is taken.
What was valid before stays so, and what fails by the server's own fault is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from coordinator.database.connection import Transaction
from coordinator.enrollment.acme.calls import Call
from coordinator.limits import service as limits

if TYPE_CHECKING:
    from coordinator.context import Context

_BUCKET = "acme failed validations"
_HOUR = timedelta(hours=1)
_MOST_NAMED = 3


async def check(call: Call, tx: Transaction, names: Iterable[str]) -> None:
    """Raise ``TooManyRequests`` if the account has failed too often for one of these names, without ``*.``."""
    limit = call.ctx.settings.acme.failures_per_hour
    subjects = {_subject(call.account_id, name): name for name in names}
    waits = await limits.exhausted(tx, _BUCKET, list(subjects), limit, _HOUR)
    if waits:
        named = ", ".join(sorted(subjects[subject] for subject in waits)[:_MOST_NAMED])
        why = f"validations of {named} have failed too often, {limit} in an hour; see why in their authorizations"
        raise limits.refused(_BUCKET, why, max(waits.values()))


async def count(ctx: Context, tx: Transaction, account_id: str, name: str) -> None:
    """Count one failure."""
    await limits.spend(tx, _BUCKET, _subject(account_id, name), ctx.settings.acme.failures_per_hour, _HOUR)


def _subject(account_id: str, name: str) -> str:
    return f"{account_id} {name}"
