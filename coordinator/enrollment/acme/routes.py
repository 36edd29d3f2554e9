"""The ACME server for its operators: keys of external accounts, accounts, orders, and why a challenge failed."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coordinator.audit import service as audit
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.enrollment.acme import operators_store
from coordinator.enrollment.acme.accounts import sealing_place
from coordinator.enrollment.acme.orders import status_of
from coordinator.web.paging import Page, PageQuery, of_row, read_page
from coordinator.web.scope import check_inside
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core import acme
from core.crash import crash_point
from core.errors import Conflict, InvalidInput, NotFound
from core.ids import new_id
from core.patterns import check_pattern
from core.secret import Secret

_KEY_BYTES = 32
Patterns = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=2000)], ...], msgspec.Meta(max_length=100)
]
Short = Annotated[str, msgspec.Meta(max_length=128)]


class CreateEABKey(Strict):
    """A key that an ACME account is bound with; its certificates get ``owner_id``, ``team_id`` and ``environment``.

    Without ``profile_ids`` it is for every profile, without ``allowed_names`` for every name that the profile allows.
    One that is not ``reusable`` binds one account.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    profile_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] = ()
    allowed_names: Patterns = ()
    wildcards: bool = True
    reusable: bool = False
    owner_id: str = "default"
    team_id: str = "default"
    environment: Short = ""
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class EABKey(msgspec.Struct):
    """A key of an external account without its value; the id is the key identifier that clients send."""

    id: str
    name: str
    profile_ids: list[str]
    allowed_names: list[str]
    wildcards: bool
    reusable: bool
    owner_id: str
    team_id: str
    environment: str
    created_by: str
    expires_at: datetime | None
    disabled_at: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime


class CreatedEABKey(msgspec.Struct):
    """What a client is given: key identifier and HMAC key (base64url), which is shown this once."""

    id: str
    name: str
    hmac_key: str
    directory_url: str


class EABKeyQuery(PageQuery):
    """Filters of the list of keys of external accounts."""

    name: str | None = None
    owner_id: str | None = None
    team_id: str | None = None
    usable: bool | None = None


class ACMEAccount(msgspec.Struct):
    """An account of a client; ``thumbprint`` is its key's (RFC 7638)."""

    id: str
    profile_id: str
    thumbprint: str
    contact: list[str]
    status: Literal["valid", "deactivated", "revoked"]
    eab_key_id: str | None
    terms_agreed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class ACMEAccountQuery(PageQuery):
    """Filters of the account list."""

    profile_id: str | None = None
    status: Literal["valid", "deactivated", "revoked"] | None = None
    eab_key_id: str | None = None


class ACMEIdentifier(msgspec.Struct):
    """A name as it was ordered."""

    type: str
    value: str


class ACMEOrder(msgspec.Struct):
    """An order as it was taken; how it stands, one order tells."""

    id: str
    account_id: str
    profile_id: str
    identifiers: list[ACMEIdentifier]
    replaces: str | None
    certificate_id: str | None
    job_id: str | None
    expires_at: datetime
    created_at: datetime


class ACMEOrderQuery(PageQuery):
    """Filters of the order list."""

    account_id: str | None = None
    profile_id: str | None = None
    certificate_id: str | None = None


class ACMEChallenge(msgspec.Struct):
    """A challenge: what went wrong (RFC 9457), and what was asked, from where, and what came back.

    ``put_off`` says why nothing can be said of one that is ``processing``; it is looked at again.
    """

    type: str
    status: str
    validated: str | None
    error: dict[str, Any] | None
    evidence: dict[str, Any] | None
    put_off: str | None


class ACMEAuthorization(msgspec.Struct):
    """What an account may have certificates for, and how that was shown."""

    id: str
    identifier: ACMEIdentifier
    wildcard: bool
    status: str
    expires_at: datetime
    challenges: list[ACMEChallenge]


class ACMEOrderState(msgspec.Struct):
    """An order, how it stands, and its authorizations."""

    order: ACMEOrder
    status: str
    error: dict[str, Any] | None
    authorizations: list[ACMEAuthorization]


async def create_key(call: Call[CreateEABKey, NoQuery]) -> CreatedEABKey:
    """Make a key of an external account."""
    body, ctx = call.body, call.ctx
    check_inside(call.actor, body.team_id, body.environment)
    for place, pattern in enumerate(body.allowed_names):
        check_pattern(pattern, field=f"allowed_names[{place}]")
    if body.expires_at is not None and body.expires_at <= ctx.clock.now():
        raise InvalidInput.of("expires_at", f"is {body.expires_at}, which has passed")
    known = await operators_store.profiles_among(call.tx, body.profile_ids)
    for place, profile_id in enumerate(body.profile_ids):
        if profile_id not in known:
            raise InvalidInput.of(f"profile_ids[{place}]", f"there is no profile {profile_id}")
    key_id, value = new_id("eab"), new_hmac_key()
    sealed = ctx.sealer.seal(Secret(value), sealing_place(key_id))
    plain = {name: getattr(body, name) for name in body.__struct_fields__}
    plain |= {"profile_ids": list(body.profile_ids), "allowed_names": list(body.allowed_names)}
    await operators_store.insert_eab_key(
        call.tx, {"id": key_id, "sealed_key": sealed, "created_by": str(call.actor), **plain}
    )
    await audit.record(
        call.tx, call.actor, "acme_eab_key.created", "acme_eab_key", key_id, audit.described(body), call.request_id
    )
    crash_point("acme.eab_key_created")
    profile = body.profile_ids[0] if body.profile_ids else ctx.settings.acme.default_profile
    return CreatedEABKey(
        key_id, body.name, acme.encode(value), f"{ctx.settings.url}/acme/profile/{profile}/directory" if profile else ""
    )


def new_hmac_key() -> bytes:
    """Return a new key. Its base64url begins with no hyphen: clients' command lines would take that for an option."""
    while acme.encode(value := os.urandom(_KEY_BYTES)).startswith("-"):
        pass
    return value


async def list_keys(call: Call[NoBody, EABKeyQuery]) -> Page[EABKey] | Streamed:
    """List the keys of external accounts, newest first."""
    return await read_page(call, operators_store.EAB_KEYS, EABKey)


async def get_key(call: Call[NoBody, NoQuery]) -> EABKey:
    """Return a key of an external account; its ETag is its revision."""
    key_id = call.path["acme_eab_key_id"]
    async with call.ctx.db.connection() as conn:
        row = await operators_store.EAB_KEYS.get(conn, key_id, {}, call.actor.scope)
    return of_row(EABKey, _there(row, f"external account key {key_id}"))


async def disable_key(call: Call[NoBody, NoQuery]) -> None:
    """Switch a key of an external account off: its accounts get nothing new, and what they have stays."""
    key_id = call.path["acme_eab_key_id"]
    async with call.ctx.db.transaction() as tx:
        row = await operators_store.lock_eab_key(tx, key_id)
        if row is None or not operators_store.EAB_KEYS.holds(row, call.actor.scope):
            row = None
        if _there(row, f"external account key {key_id}")["disabled_at"] is not None:
            return
        await operators_store.disable_eab_key(tx, key_id)
        await audit.record(tx, call.actor, "acme_eab_key.disabled", "acme_eab_key", key_id, {}, call.request_id)
        crash_point("acme.eab_key_disabled")


async def list_accounts(call: Call[NoBody, ACMEAccountQuery]) -> Page[ACMEAccount] | Streamed:
    """List the accounts of ACME clients, newest first."""
    return await read_page(call, operators_store.ACCOUNTS, ACMEAccount)


async def get_account(call: Call[NoBody, NoQuery]) -> ACMEAccount:
    """Return an account."""
    async with call.ctx.db.connection() as conn:
        return of_row(ACMEAccount, await _account(call, conn))


async def _account(call: Call[Any, Any], conn: Connection) -> Row:
    account_id = call.path["acme_account_id"]
    return _there(
        await operators_store.ACCOUNTS.get(conn, account_id, {}, call.actor.scope), f"ACME account {account_id}"
    )


async def revoke_account(call: Call[NoBody, NoQuery]) -> ACMEAccount:
    """Revoke an account for good; what was issued to it stays valid."""
    async with call.ctx.db.transaction() as tx:
        account = await _account(call, tx)
        row = await operators_store.end_account(tx, account["id"])
        if row is None:
            raise Conflict(f"{account['id']} is {account['status']} already")
        await audit.record(tx, call.actor, "acme_account.revoked", "acme_account", row["id"], {}, call.request_id)
        crash_point("acme.account_revoked")
        return of_row(ACMEAccount, row)


async def list_orders(call: Call[NoBody, ACMEOrderQuery]) -> Page[ACMEOrder] | Streamed:
    """List the orders of ACME clients, newest first."""
    return await read_page(call, operators_store.ORDERS_LISTING, ACMEOrder)


async def get_order(call: Call[NoBody, NoQuery]) -> ACMEOrderState:
    """Return an order with its authorizations: why a challenge failed is told with the evidence."""
    order_id = call.path["acme_order_id"]
    async with call.ctx.db.connection() as conn:
        row = await operators_store.ORDERS_LISTING.get(conn, order_id, {}, call.actor.scope)
        order = of_row(ACMEOrder, _there(row, f"ACME order {order_id}"))
        whole = await operators_store.order(conn, order_id)
        assert whole is not None  # noqa: S101 - it was read just now, and none with a scope is removed in between
        found = await operators_store.authorizations(conn, whole["authorization_ids"])
    failure = whole["failure"]
    error = whole["error"] or (failure and {"type": acme.URN + "serverInternal", "detail": failure["cause"]})
    return ACMEOrderState(order, status_of(whole), error, [_shown(each) for each in found])


def _shown(row: Row) -> ACMEAuthorization:
    names = ACMEChallenge.__struct_fields__
    challenges = [ACMEChallenge(**{name: each.get(name) for name in names}) for each in row["challenges"]]
    return ACMEAuthorization(
        row["id"],
        ACMEIdentifier(row["kind"], row["value"]),
        row["wildcard"],
        "expired" if row["run_out"] and row["status"] in {"pending", "valid"} else row["status"],
        row["expires_at"],
        challenges,
    )


def _there(row: Row | None, what: str) -> Row:
    if row is None:
        raise NotFound(f"there is no {what}")
    return row


_KEYS, _ACCOUNTS, _ORDERS = (f"/api/v1/acme-{each}" for each in ("eab-keys", "accounts", "orders"))
_READ, _WRITE = Permission.READ, Permission.ENROLLMENT
ROUTES = [
    Route("GET", _KEYS, list_keys, _READ, "List keys of external ACME accounts", Page[EABKey], query=EABKeyQuery,
          listing=operators_store.EAB_KEYS),
    Route("POST", _KEYS, create_key, _WRITE, "Make a key of an external ACME account", CreatedEABKey,
          request=CreateEABKey, status=201),
    Route("GET", f"{_KEYS}/{{acme_eab_key_id}}", get_key, _READ, "Get a key of an external ACME account", EABKey,
          errors=(NotFound,)),
    Route("DELETE", f"{_KEYS}/{{acme_eab_key_id}}", disable_key, _WRITE, "Switch a key of an external account off",
          None, status=204, errors=(NotFound,)),
    Route("GET", _ACCOUNTS, list_accounts, _READ, "List ACME accounts", Page[ACMEAccount], query=ACMEAccountQuery,
          listing=operators_store.ACCOUNTS),
    Route("GET", f"{_ACCOUNTS}/{{acme_account_id}}", get_account, _READ, "Get an ACME account", ACMEAccount,
          errors=(NotFound,)),
    Route("POST", f"{_ACCOUNTS}/{{acme_account_id}}/revoke", revoke_account, _WRITE, "Revoke an ACME account",
          ACMEAccount, errors=(NotFound, Conflict)),
    Route("GET", _ORDERS, list_orders, _READ, "List ACME orders", Page[ACMEOrder], query=ACMEOrderQuery,
          listing=operators_store.ORDERS_LISTING),
    Route("GET", f"{_ORDERS}/{{acme_order_id}}", get_order, _READ, "Get an ACME order and why it stands so",
          ACMEOrderState, errors=(NotFound,)),
]  # fmt: skip
