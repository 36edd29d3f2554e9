"""Accounts (RFC 8555 sections 7.1.2 and 7.3): made, bound to an external account, changed, deactivated, re-keyed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.connection import Transaction
from coordinator.database.driver import Columns
from coordinator.database.driver import Record as Row
from coordinator.database.sealed import SealedColumn
from coordinator.enrollment.acme import jws, store
from coordinator.enrollment.acme.calls import Call, Reply
from coordinator.enrollment.acme.problems import Problem
from coordinator.limits import service as limits
from core.crash import crash_point
from core.ids import new_id

if TYPE_CHECKING:
    from coordinator.context import Context
    from coordinator.profiles.service import Profile

PAGE = 50
HOUR = timedelta(hours=1)
_MOST_CONTACTS = 10
_MAILTO = re.compile(r"mailto:[^\s@,?&<>]{1,64}@[^\s@,?&<>]{1,253}")
Contacts = tuple[str, ...]


class NewAccount(msgspec.Struct, rename="camel"):
    """The payload of newAccount."""

    contact: Contacts = ()
    terms_of_service_agreed: bool = False
    only_return_existing: bool = False
    external_account_binding: dict[str, Any] | None = None


class AccountUpdate(msgspec.Struct):
    """The payload of a request to an account; an empty one reads it."""

    contact: Contacts | None = None
    status: Literal["deactivated"] | None = None


class _KeyChange(msgspec.Struct, rename="camel"):
    account: str
    old_key: dict[str, Any]


def sealing_place(key_id: str) -> str:
    """Return the place that an external account's key is sealed for."""
    return f"acme_eab_keys/{key_id}"


SEALED = SealedColumn("acme_eab_keys", ("id",), "sealed_key", lambda row: sealing_place(row["id"]))


def eab_required(ctx: Context, profile: Profile) -> bool:
    """Say whether a new account of a profile has to be bound: who is trusted without challenges has to be known."""
    settings = ctx.settings.acme
    if settings.eab_required:
        return True
    open_here = profile.acme_open_accounts or (settings.allow_open_trust and profile.id == settings.default_profile)
    mode = profile.acme_auth_mode or settings.default_mode
    return mode == "trust_authenticated" and not open_here


async def create(call: Call, tx: Transaction) -> Reply:
    """Return the account of a key, made if it is not there (section 7.3)."""
    body = call.read(NewAccount)
    found = await store.account_by_key(tx, call.profile.id, call.thumbprint)
    if found is None:
        if body.only_return_existing:
            raise Problem("accountDoesNotExist", "there is no account with this key")
        await _insert(call, tx, body)
        found = await store.account_by_key(tx, call.profile.id, call.thumbprint)
        assert found is not None  # noqa: S101 - it was inserted in this transaction, or before
        status = HTTPStatus.CREATED
    else:
        status = HTTPStatus.OK
    if found["status"] != "valid":
        raise Problem("unauthorized", f"the account {found['id']} is {found['status']}")
    return Reply(_shown(call, found), status, {"Location": f"{call.base}/account/{found['id']}"})


async def _insert(call: Call, tx: Transaction, body: NewAccount) -> None:
    settings = call.ctx.settings.acme
    if settings.terms_url and not body.terms_of_service_agreed:
        detail = f"agree to the terms of service at {settings.terms_url} first (termsOfServiceAgreed)"
        raise Problem("userActionRequired", detail, headers={"Link": f'<{settings.terms_url}>;rel="terms-of-service"'})
    _check_contacts(body.contact)
    eab = await _bound(call, tx, body.external_account_binding)
    account = {
        "id": new_id("aca"),
        "profile_id": call.profile.id,
        "thumbprint": call.thumbprint,
        "jwk": call.key.as_dict(private=False),
        "contact": list(body.contact),
        "eab_key_id": eab,
        "agreed": body.terms_of_service_agreed,
    }
    if await store.insert_account(tx, account):
        details = {"profile_id": call.profile.id, "eab_key_id": eab, "thumbprint": call.thumbprint}
        account_id = str(account["id"])
        actor = msgspec.structs.replace(call.actor, id=account_id)
        await audit.record(tx, actor, "acme_account.created", "acme_account", account_id, details, call.request_id)
        crash_point("acme.account_created")


async def _bound(call: Call, tx: Transaction, binding: dict[str, Any] | None) -> str | None:
    """Return the key of an external account that a new account is bound with (section 7.3.4)."""
    if binding is None:
        if eab_required(call.ctx, call.profile):
            detail = "this server takes accounts with an external account binding only; ask its operator for a key"
            raise Problem("externalAccountRequired", detail)
        return None
    inner = jws.read(msgspec.json.encode(binding))
    header = inner.header
    if header.alg not in jws.MAC_ALGORITHMS or header.nonce or header.jwk is not None or not header.kid:
        detail = "the external account binding needs a MAC algorithm (HS256), a kid, and neither nonce nor jwk"
        raise Problem("malformed", detail)
    if header.url != call.request.header.url:
        raise Problem("malformed", "the external account binding was made for another URL than the request's")
    row = await store.eab_key(tx, header.kid)
    wrong = Problem("unauthorized", "the external account key is not known, was switched off or has expired")
    if row is None:
        raise wrong
    secret = call.ctx.sealer.open(row["sealed_key"], sealing_place(row["id"])).reveal()
    try:
        jws.verify_mac(inner, secret)
    except Problem as error:
        raise Problem("unauthorized", "the external account binding's MAC does not fit its key") from error
    _check_binding(call, row, inner)
    return str(row["id"])


def _check_binding(call: Call, row: Row, inner: jws.Request) -> None:
    """Raise ``Problem`` unless the binding is of this account key and may be used here, once or again."""
    try:
        bound = jws.thumbprint(
            jws.read_key(msgspec.json.decode(inner.payload, type=dict[str, Any]), call.request.header.alg)
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
        raise Problem("malformed", "the external account binding's payload is not the account's key") from error
    if bound != call.thumbprint:
        raise Problem("malformed", "the external account binding is of another key than the account's")
    if row["profile_ids"] and call.profile.id not in row["profile_ids"]:
        raise Problem("unauthorized", f"the external account key is not for the profile {call.profile.id}")
    if row["bound"] and not row["reusable"]:
        raise Problem("unauthorized", "the external account key was used by another account; ask for another one")


def _check_contacts(contacts: Contacts) -> None:
    if len(contacts) > _MOST_CONTACTS:
        raise Problem("malformed", f"an account has at most {_MOST_CONTACTS} contacts")
    for contact in contacts:
        if not contact.startswith("mailto:"):
            raise Problem(
                "unsupportedContact", f"{contact[:100]!r} is no mailto: URL, the only kind that is known here"
            )
        if not _MAILTO.fullmatch(contact):
            raise Problem("invalidContact", f"{contact[:100]!r} is not one e-mail address without further fields")


async def update(call: Call, tx: Transaction) -> Reply:
    """Read an account, give it other contacts, or deactivate it (sections 7.3.2 and 7.3.6)."""
    row = own_account(call)
    if not call.request.payload:
        return Reply(_shown(call, row))
    body = call.read(AccountUpdate)
    if body.contact is not None:
        _check_contacts(body.contact)
    contact = row["contact"] if body.contact is None else list(body.contact)
    status = body.status or row["status"]
    if (contact, status) != (row["contact"], row["status"]):
        await store.update_account(tx, row["id"], contact, status)
        what = "deactivated" if body.status else "updated"
        await audit.record(tx, call.actor, f"acme_account.{what}", "acme_account", row["id"], {}, call.request_id)
        crash_point("acme.account_changed")
    return Reply(_shown(call, {**row, "contact": contact, "status": status}))


def own_account(call: Call) -> dict[str, Any]:
    """Return the account that a path names; raise ``Problem`` unless it is the one that signed."""
    if call.account is None or call.path["account_id"] != call.account["id"]:
        raise Problem("unauthorized", "an account can be read and changed by itself only")
    return call.account


async def list_orders(call: Call, tx: Transaction) -> Reply:
    """Return an account's orders, newest first (section 7.1.2.1)."""
    own_account(call)
    call.check_post_as_get()
    ids = await store.order_ids(tx, call.account_id, call.query.get("cursor", ""), PAGE + 1)
    shown, links = ids[:PAGE], tuple[str, ...]()
    if len(ids) > PAGE:
        links = (f'<{call.account_url}/orders?cursor={shown[-1]}>;rel="next"',)
    return Reply({"orders": [f"{call.base}/order/{order_id}" for order_id in shown]}, links=links)


async def change_key(call: Call, tx: Transaction) -> Reply:
    """Give an account another key, which proves itself by the inner signature (section 7.3.5)."""
    account = call.account
    assert account is not None  # noqa: S101 - the route asks for one
    limit, per = call.ctx.settings.acme.key_changes_per_hour, HOUR
    await limits.take(tx, "acme key changes", call.account_id, limit, per)
    inner = jws.read(call.request.payload)
    jws.check_header(inner.header, call.request.header.url, "jwk")
    if inner.header.nonce:
        raise Problem("malformed", "the inner request of a key change has no nonce")
    new = jws.read_key(inner.header.jwk, inner.header.alg)
    jws.verify(inner, new)
    body = replace(call, request=inner).read(_KeyChange)
    if body.account != call.request.header.kid:
        raise Problem("malformed", "the inner request names another account than the outer one")
    if jws.thumbprint(jws.read_key(body.old_key, call.request.header.alg)) != account["thumbprint"]:
        raise Problem("malformed", "oldKey is not the account's key")
    await _give_key(call, tx, new)
    return Reply(_shown(call, account))


async def _give_key(call: Call, tx: Transaction, new: jws.AccountKey) -> None:
    old, thumbprint = call.thumbprint, jws.thumbprint(new)
    taken = await store.account_by_key(tx, call.profile.id, thumbprint)
    if taken is not None:
        location = {"Location": f"{call.base}/account/{taken['id']}"}
        raise Problem("malformed", "another account has this key", HTTPStatus.CONFLICT, headers=location)
    try:
        changed = await store.change_key(tx, call.account_id, old, thumbprint, new.as_dict(private=False))
    except driver.UniqueViolation as error:
        raise Problem("malformed", "another account has this key", HTTPStatus.CONFLICT) from error
    if not changed:
        raise Problem("malformed", "the account's key was changed meanwhile", HTTPStatus.CONFLICT)
    details = {"old": old, "new": thumbprint}
    await audit.record(
        tx, call.actor, "acme_account.key_changed", "acme_account", call.account_id, details, call.request_id
    )
    crash_point("acme.key_changed")


def _shown(call: Call, row: Columns) -> dict[str, Any]:
    return dict(_fields(call, row))


def _fields(call: Call, row: Columns) -> Iterator[tuple[str, Any]]:
    yield "status", row["status"]
    yield "contact", list(row["contact"])
    yield "orders", f"{call.base}/account/{row['id']}/orders"
    if row["terms_agreed_at"] is not None:
        yield "termsOfServiceAgreed", True
