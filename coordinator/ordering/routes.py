"""Orders at authorities elsewhere, why a challenge failed, and our accounts there; for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.issuers import service as issuers
from coordinator.ordering import accounts, challenge_store, store
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed
from core import acme
from core.errors import Conflict, NotFound, Refused


class CAChallenge(msgspec.Struct):
    """The answer to a challenge. ``agent_id`` shows it; null: a record that the coordinator writes.

    ``asked`` is what the authority looks for, ``shown_where`` where it was shown. ``problem`` says why it was not
    shown, or in the authority's words why it was not believed; ``verdict`` is its challenge as it was last seen.
    """

    id: str
    type: str
    name: str
    agent_id: str | None
    state: str
    asked: str
    shown_at: datetime | None
    shown_where: str
    problem: str
    verdict: dict[str, Any] | None
    created_at: datetime


class CAOrder(msgspec.Struct):
    """An order at an authority elsewhere. While it is ``open``, ``problem`` says why it waits until ``next_at``.

    ``authority_status`` is the order's state there (RFC 8555 section 7.1.6), empty before it was placed; ``replaces``
    names the certificate that it comes after, where the authority took that (RFC 9773 section 5).
    """

    id: str
    certificate_id: str
    job_id: str
    issuer_id: str
    status: str
    authority_status: str
    order_url: str
    replaces: str
    failures: int
    problem: str
    next_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    challenges: list[CAChallenge]


class IssuerAccount(msgspec.Struct):
    """Our account at an authority; its key stays here, sealed. ``next`` is a key that the authority is told of soon.

    Until ``blocked_until`` its limits are used up and nothing is ordered there.
    """

    id: str
    directory_url: str
    state: str
    url: str
    contact: str
    blocked_until: datetime | None
    blocked_reason: str
    created_at: datetime


class IssuerAccounts(msgspec.Struct):
    """All accounts of an issuer, the current one first."""

    data: list[IssuerAccount]
    total: int


class OrderQuery(PageQuery):
    """Filters of the list."""

    certificate_id: str | None = None
    job_id: str | None = None
    issuer_id: str | None = None
    status: str | None = None


async def _shape(conn: Connection, rows: Sequence[Row]) -> list[CAOrder]:
    shown: dict[str, list[CAChallenge]] = {row["id"]: [] for row in rows}
    for answer in await challenge_store.of_order(conn, list(shown)):
        shown[answer["order_id"]].append(_challenge(answer))
    return [_order(row, shown[row["id"]]) for row in rows]


def _order(row: Row, shown: list[CAChallenge]) -> CAOrder:
    state = row["state"] or {}
    own = ("id", "certificate_id", "job_id", "issuer_id", "status", "replaces", "failures", "problem", "created_at")
    return CAOrder(
        **{name: row[name] for name in own},
        finished_at=row["finished_at"],
        authority_status=state.get("status", ""),
        order_url=state.get("order_url", ""),
        next_at=row["next_at"] if row["status"] == "open" else None,
        challenges=shown,
    )


def _challenge(row: Row) -> CAChallenge:
    challenge = row["challenge"]
    own = ("id", "agent_id", "state", "shown_at", "shown_where", "problem", "verdict", "created_at")
    return CAChallenge(
        **{name: row[name] for name in own},
        type=challenge["type"],
        name=challenge["name"]["value"],
        asked=_asked(challenge),
    )


def _asked(challenge: dict[str, Any]) -> str:
    name, kind = challenge["name"]["value"], challenge["type"]
    if kind == acme.HTTP_01:
        return f"http://{name}/.well-known/acme-challenge/{challenge['token']}"
    if kind == acme.TLS_ALPN_01:
        return f"{name}:443 by {acme.ALPN_PROTOCOL}"
    account = challenge["account_url"] if kind == acme.DNS_ACCOUNT_01 else ""
    return f"TXT {acme.dns_name(name, account, persist=kind == acme.DNS_PERSIST_01)}"


async def list_orders(call: Call[NoBody, OrderQuery]) -> Page[CAOrder] | Streamed:
    """List orders, newest first, with the answers to their challenges."""
    return await read_page(call, store.ORDERS, CAOrder, _shape)


async def get_order(call: Call[NoBody, NoQuery]) -> CAOrder:
    """Return one order with all that is known of its challenges."""
    async with call.ctx.db.connection() as conn:
        row = await store.ORDERS.get(conn, call.path["ca_order_id"], {}, call.actor.scope)
        if row is None:
            detail = f"there is no order {call.path['ca_order_id']}"
            raise NotFound(detail)
        (order,) = await _shape(conn, [row])
    return order


async def list_accounts(call: Call[NoBody, NoQuery]) -> IssuerAccounts:
    """List our accounts at an issuer's authority."""
    async with call.ctx.db.connection() as conn:
        return await _accounts(conn, call.path["issuer_id"])


async def _accounts(conn: Connection, issuer_id: str) -> IssuerAccounts:
    await issuers.check_there(conn, issuer_id)
    rows = await store.accounts(conn, issuer_id)
    found = [IssuerAccount(**{name: row[name] for name in IssuerAccount.__struct_fields__}) for row in rows]
    return IssuerAccounts(found, len(found))


async def roll_over(call: Call[NoBody, NoQuery]) -> IssuerAccounts:
    """Make a new key for the account; the authority is told of it within moments."""
    await accounts.want_roll_over(call, call.path["issuer_id"])
    return await _accounts(call.tx, call.path["issuer_id"])


_ORDERS = "/api/v1/issuer-orders"
_ACCOUNTS = "/api/v1/issuers/{issuer_id}/accounts"

ROUTES = [
    Route(
        "GET",
        _ORDERS,
        list_orders,
        Permission.READ,
        "List orders at authorities elsewhere",
        Page[CAOrder],
        query=OrderQuery,
        listing=store.ORDERS,
    ),
    Route("GET", f"{_ORDERS}/{{ca_order_id}}", get_order, Permission.READ, "Read one", CAOrder, errors=(NotFound,)),
    Route(
        "GET",
        _ACCOUNTS,
        list_accounts,
        Permission.READ,
        "List accounts at an issuer's authority",
        IssuerAccounts,
        errors=(NotFound,),
    ),
    Route(
        "POST",
        f"{_ACCOUNTS}/roll-over",
        roll_over,
        Permission.ISSUERS_WRITE,
        "Give the account another key",
        IssuerAccounts,
        status=201,
        errors=(NotFound, Conflict, Refused),
    ),
]
