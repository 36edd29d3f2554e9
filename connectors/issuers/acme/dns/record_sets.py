"""Values that come and go one by one in record sets which a service has written as a whole.

The names of one order may share a set (``*.example.com`` and ``example.com``), and other orders and programs write to
it as well. So a set is read, and written on the condition that it is still as it was read; else it is read again.
"""

from __future__ import annotations

import random
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from connectors.issuers.acme.dns.base import TTL_S, TXTRecord
from connectors.issuers.acme.polling import Timer, until
from core.errors import PreconditionFailed, Transient

V = TypeVar("V")
DEADLINE_S = 60.0
_PAUSES_S = (0.2, 1.0)


class RecordSet(msgspec.Struct, Generic[V], frozen=True):
    """The TXT records of a name, each as the service spells it, so that those of others are sent back unchanged.

    ``etag`` and ``metadata`` are for services that have them.
    """

    values: tuple[V, ...] = ()
    ttl_s: int = TTL_S
    etag: str = ""
    metadata: dict[str, Any] = {}


class Sets(Protocol[V]):
    """The record sets of a service."""

    def spelled(self, value: str) -> V:
        """Return a value as the service has it."""

    async def read(self, fqdn: str) -> RecordSet[V]:
        """Return the set of a name, one without values where there is none."""

    async def write(self, fqdn: str, before: RecordSet[V], values: tuple[V, ...]) -> str:
        """Give a set these values, or delete it when there are none; return the id of a change to wait for, if any.

        Raises ``PreconditionFailed`` when the set is not as it was ``before``.
        """


async def edit(sets: Sets[V], record: TXTRecord, timer: Timer, *, add: bool) -> str:
    """Add a value or take it out, and return the id of a change to wait for, empty where there is none.

    What is throttled or was changed by others is tried again for a minute.
    """
    value = sets.spelled(record.value)

    async def attempt() -> tuple[str | None, float]:
        before = await sets.read(record.fqdn)
        rest = tuple(each for each in before.values if each != value)
        after = (*rest, value) if add else rest
        if len(after) == len(before.values):
            return "", 0.0
        try:
            return await sets.write(record.fqdn, before, after), 0.0
        except PreconditionFailed as error:
            # Writers that met once shall not meet again and again.
            pause_s = random.uniform(*_PAUSES_S)  # noqa: S311 - nobody gains from knowing it
            raise Transient(error.detail, retry_after_s=pause_s) from error

    what = f"{'adding to' if add else 'removing from'} the TXT records of {record.fqdn}"
    return await until(attempt, what=what, deadline_s=DEADLINE_S, timer=timer)
