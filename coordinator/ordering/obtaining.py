"""One order from its names to its certificate, from wherever it is; it may be left at any point and taken up again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import structlog
from cryptography import x509

from connectors import together
from connectors.issuers.acme import failover, orders
from connectors.issuers.acme.certificates import Issued
from connectors.issuers.acme.challenges import Authorization, Challenge, choose
from connectors.issuers.acme.orders import Order
from connectors.issuers.acme.problems import RateLimited
from connectors.issuers.acme.state import PENDING, OrderState
from coordinator.database.driver import Record as Row
from coordinator.issuers import secrets
from coordinator.ordering import accounts, challenges, store
from coordinator.ordering.accounts import Authority
from core.acme import DNS_PERSIST_01, certificate_id_of
from core.clock import seconds_until
from core.crash import crash_point
from core.csr import read_csr
from core.errors import CertctlError, Transient

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
PATIENCE_S = 120.0
"""How long one attempt looks at the authority before the order is put back to be looked at later."""
_UNTOLD_LIMIT = timedelta(hours=1)


class TakenOver(CertctlError):
    """Another coordinator has taken the order meanwhile."""


class Obtained:
    """What came of an attempt: the chain and the issuer that it is from."""

    def __init__(self, issued: Issued, issuer_id: str) -> None:
        self.chain, self.issuer_id = issued.chain, issuer_id


async def obtain(ctx: Context, row: Row) -> Obtained:
    """Bring a taken order to its end.

    Raises ``Transient`` when it may go on later, ``TakenOver``, or why it is over.
    """
    if row["state"] is None:
        authority, order = await _place(ctx, row)
    else:
        authority = await accounts.authority(ctx, row["issuer_id"])
        state = msgspec.convert(row["state"], OrderState)
        order = await orders.resume(authority.account, state, _keeper(ctx, row, row["issuer_id"]))
    if order.state.status == PENDING:
        await _prove(ctx, row, authority, order)
    await challenges.take_away(ctx, row["id"], authority.issuer_id)
    csr = bytes(row["csr"])
    await order.finalize(csr)
    crash_point("ca_order.finalized")
    preferred = authority.config.preferred_root
    issued = await order.certificate(csr, preferred_root=preferred, deadline_s=PATIENCE_S)
    return Obtained(issued, authority.issuer_id)


async def _place(ctx: Context, row: Row) -> tuple[Authority, Order]:
    """Order at the certificate's issuer, or at the first of its fallbacks that can."""
    async with ctx.db.connection() as conn:
        first, _ = await secrets.acme(ctx, conn, row["first_issuer_id"])
        candidates = [row["first_issuer_id"], *first.fallback_issuer_ids]
        blocked = await store.blocked(conn, candidates)
    if len(blocked) == len(candidates):
        first_free = min(blocked.values())
        detail = f"the limits of {', '.join(candidates)} are used up until {first_free:%Y-%m-%dT%H:%M:%SZ}"
        raise Transient(detail, retry_after_s=max(1.0, seconds_until(ctx.clock, first_free)))
    usable = failover.usable(candidates, blocked, ctx.clock.now())

    async def attempt(issuer_id: str) -> tuple[Authority, Order]:
        try:
            authority = await accounts.authority(ctx, issuer_id)
            return authority, await _order_at(ctx, row, authority)
        except RateLimited as error:
            await _block(ctx, issuer_id, error)
            raise Transient(error.detail, retry_after_s=error.retry_after_s or _UNTOLD_LIMIT.total_seconds()) from error

    def failed(issuer_id: str, error: Transient) -> None:
        log.warning("authority_cannot", issuer_id=issuer_id, order_id=row["id"], detail=error.detail)

    return await failover.first_that_can(usable, attempt, failed=failed)


async def _order_at(ctx: Context, row: Row, authority: Authority) -> Order:
    facts, _ = read_csr(row["csr"])
    replaces = ""
    if row["replaced"] is not None and authority.config.ari_enabled and authority.issuer_id == row["first_issuer_id"]:
        replaces = certificate_id_of(x509.load_der_x509_certificate(row["replaced"]))
    names = sorted(facts.names)
    return await orders.new_order(
        authority.account,
        names,
        profile=authority.config.profile,
        replaces=replaces,
        save=_keeper(ctx, row, authority.issuer_id),
    )


def _keeper(ctx: Context, row: Row, issuer_id: str) -> orders.Save:
    """Return what stores each state of an order, as long as it is this coordinator's."""

    async def save(state: OrderState) -> None:
        async with ctx.db.transaction() as tx:
            kept = msgspec.to_builtins(state)
            if not await store.save_state(tx, row["id"], row["epoch"], issuer_id, kept, state.replaces):
                detail = f"order {row['id']} was taken by another coordinator"
                raise TakenOver(detail)
            crash_point("ca_order.state_stored")
        crash_point("ca_order.state_committed")

    return save


async def _prove(ctx: Context, row: Row, authority: Authority, order: Order) -> None:
    """Have every name proved: answers shown, looked at by the authority, and taken away however that ends."""
    pending = [each for each in await order.authorizations() if each.status == PENDING]
    chosen = [_chosen(each, authority) for each in pending]
    await challenges.show(ctx, row, authority, chosen)
    await together.for_each(chosen, order.accept)
    crash_point("ca_order.accepted")
    try:
        await order.wait_until_ready(PATIENCE_S)
    finally:
        await _keep_verdicts(ctx, row, order, {each.url for each in chosen})


def _chosen(authorization: Authorization, authority: Authority) -> Challenge:
    config = authority.config
    challenge = choose(authorization, config.preference)
    if challenge.type == DNS_PERSIST_01 and config.dns_persist_issuer_domain:
        return msgspec.structs.replace(challenge, issuer_domain=config.dns_persist_issuer_domain)
    return challenge


async def _keep_verdicts(ctx: Context, row: Row, order: Order, urls: set[str]) -> None:
    try:
        seen = [each for found in await order.authorizations() for each in found.challenges if each.url in urls]
    except CertctlError as error:
        log.info("acme_verdict_not_read", order_id=row["id"], detail=error.detail)
        return
    await challenges.keep_verdicts(ctx, row["id"], seen)


async def _block(ctx: Context, issuer_id: str, error: RateLimited) -> None:
    wait = timedelta(seconds=error.retry_after_s) or _UNTOLD_LIMIT
    log.warning("authority_limit_reached", issuer_id=issuer_id, limit=error.limit, wait_s=wait.total_seconds())
    async with ctx.db.transaction() as tx:
        await store.block(tx, issuer_id, wait, error.detail)
