"""The whole way of one order, new or taken up again, with those who answer its challenges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import structlog

from connectors import together
from connectors.issuers.acme.certificates import Issued
from connectors.issuers.acme.challenges import Challenge, choose
from connectors.issuers.acme.orders import ISSUED_DEADLINE_S, READY_DEADLINE_S, Order
from connectors.issuers.acme.state import PENDING
from core.errors import CertctlError

log = structlog.get_logger()
CLEAN_UP_S = 150.0
"""How long taking answers away may take, also when the order was cancelled."""


class Answerer(Protocol):
    """Answers challenges of some types. Both methods may be called again for the same challenge, also after a crash."""

    async def present(self, challenge: Challenge) -> None:
        """Show the answer; return when the authority can see it."""

    async def clean_up(self, challenge: Challenge) -> None:
        """Take the answer away; it may be gone already."""


async def obtain(
    order: Order,
    csr: bytes,
    answerers: Mapping[str, Answerer],
    *,
    preference: Sequence[str] = (),
    preferred_root: str = "",
    ready_deadline_s: float = READY_DEADLINE_S,
    issued_deadline_s: float = ISSUED_DEADLINE_S,
) -> Issued:
    """Bring an order to its end from wherever it is; ``answerers`` are by type of challenge, in order of preference.

    Raises ``Transient`` when it may go on later from ``order.state``, unless ``order.state.is_over``.
    """
    if order.state.status == PENDING:
        await _prove(order, answerers, preference or tuple(answerers), ready_deadline_s)
    await order.finalize(csr)
    return await order.certificate(csr, preferred_root=preferred_root, deadline_s=issued_deadline_s)


async def _prove(order: Order, answerers: Mapping[str, Answerer], preference: Sequence[str], deadline_s: float) -> None:
    pending = [each for each in await order.authorizations() if each.status == PENDING]
    chosen = [choose(each, [kind for kind in preference if kind in answerers]) for each in pending]
    async with _presented(chosen, answerers):
        await together.for_each(chosen, order.accept)
        await order.wait_until_ready(deadline_s)


@asynccontextmanager
async def _presented(challenges: Sequence[Challenge], answerers: Mapping[str, Answerer]) -> AsyncIterator[None]:
    """Show all answers, and take all of them away whatever happens."""
    try:
        await together.for_each(challenges, lambda each: answerers[each.type].present(each))
        yield
    finally:
        with anyio.move_on_after(CLEAN_UP_S, shield=True):
            await together.for_each(challenges, lambda each: _clean_up(each, answerers[each.type]))


async def _clean_up(challenge: Challenge, answerer: Answerer) -> None:
    try:
        await answerer.clean_up(challenge)
    except CertctlError as error:
        # The certificate does not depend on it, and what is left over answers nothing else.
        log.warning("acme_clean_up_failed", name=str(challenge.name), challenge=challenge.type, cause=error.detail)
