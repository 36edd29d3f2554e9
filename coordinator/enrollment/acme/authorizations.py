"""Authorizations and their challenges (RFC 8555 sections 7.1.4 and 7.5): made, used again, shown, deactivated.

A profile in trust mode needs no proof: its authorizations are valid when they are made. Otherwise a client says which
challenge it has prepared, and ``validating`` looks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from coordinator.audit import service as audit
from coordinator.database.connection import Transaction
from coordinator.database.driver import Columns
from coordinator.database.driver import Record as Row
from coordinator.enrollment.acme import failures, names, store
from coordinator.enrollment.acme.calls import Call, Reply, of_account
from coordinator.enrollment.acme.names import Identifier, Wanted
from coordinator.enrollment.acme.problems import Problem
from coordinator.limits import service as limits
from core import acme
from core.crash import crash_point
from core.ids import new_id

TRUST = "trust_authenticated"
_LASTING = timedelta(hours=1)
"""An authorization that ends sooner is not used again: the order would outlive it."""
_HOUR = timedelta(hours=1)
_TOKEN_BYTES = 32
POLL_S = 1
_OURS = {"evidence", "account_url", "put_off"}
"""What is kept with a challenge and not sent."""
Challenge = dict[str, Any]


class _NewAuthorization(msgspec.Struct):
    identifier: Identifier


class _Update(msgspec.Struct):
    status: Literal["deactivated"]


def _types(call: Call, wanted: Wanted) -> tuple[str, ...]:
    """Return the challenges that can prove a name: a wildcard by DNS alone (section 8.4), an address not by it.

    dns-persist-01 comes last and only where it is asked for: it has no token, and some clients go no further than that.
    """
    if wanted.kind == "ip":
        return acme.HTTP_01, acme.TLS_ALPN_01
    last = (acme.DNS_PERSIST_01,) if call.ctx.settings.acme.persist_issuers else ()
    if wanted.wildcard:
        return acme.DNS_01, acme.DNS_ACCOUNT_01, *last
    return acme.HTTP_01, acme.DNS_01, acme.TLS_ALPN_01, acme.DNS_ACCOUNT_01, *last


def durations(call: Call) -> tuple[timedelta, timedelta]:
    """Return how long a new authorization lasts, and how long an old one has to, to be used again."""
    return call.ctx.settings.acme.authz_ttl, _LASTING


async def check_new(call: Call, tx: Transaction, names: Sequence[str]) -> None:
    """Raise ``Problem`` for names that have to be proved and failed too often lately."""
    if names and call.mode != TRUST:
        await failures.check(call, tx, names)


def row_of(call: Call, wanted: Wanted) -> dict[str, Any]:
    """Return the authorization that a name gets where there is none."""
    trusted = call.mode == TRUST
    status = "valid" if trusted else "pending"
    given = {"status": status, "token": acme.encode(os.urandom(_TOKEN_BYTES))}
    if trusted:
        given["validated"] = _now(call)
    # What dns-persist-01 says instead of a token (draft-ietf-acme-dns-persist section 3.1); see ``shown_challenge``.
    persist = {"status": status, "issuer-domain-names": call.ctx.settings.acme.persist_issuers}
    types = _types(call, wanted)[:1] if trusted else _types(call, wanted)
    return {
        "id": new_id("acz"),
        "kind": wanted.kind,
        "value": wanted.value,
        "wildcard": wanted.wildcard,
        "mode": call.mode,
        "status": status,
        "challenges": [{"type": each, **(persist if each == acme.DNS_PERSIST_01 else given)} for each in types],
    }


def _now(call: Call) -> str:
    return call.ctx.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")


async def create(call: Call, tx: Transaction) -> Reply:
    """Take an authorization before there is an order (section 7.4.1); wildcards have none."""
    body = call.read(_NewAuthorization)
    (wanted,) = names.read([body.identifier], call)
    if wanted.wildcard:
        raise Problem("malformed", "identifier: a wildcard cannot be authorized before its order (section 7.4.1)")
    await limits.take(tx, "acme orders", call.account_id, call.ctx.settings.acme.orders_per_hour, _HOUR)
    taken = await store.take_authorization(tx, call.account_id, row_of(call, wanted), *durations(call))
    await check_new(call, tx, [wanted.value] if taken["is_new"] else [])
    authorization_id = taken["id"]
    row = await store.authorization(tx, authorization_id, call.account_id)
    assert row is not None  # noqa: S101 - it is there, or was inserted
    details = {"identifier": wanted.value}
    await audit.record(
        tx, call.actor, "acme_authorization.created", "acme_authorization", authorization_id, details, call.request_id
    )
    crash_point("acme.authorization_created")
    return Reply(shown(call, row), HTTPStatus.CREATED, {"Location": f"{call.base}/authz/{authorization_id}"})


async def show(call: Call, tx: Transaction) -> Reply:
    """Return an authorization, or deactivate it (section 7.5.2)."""
    row = await _locked(call, tx) if call.request.payload else of_account(call.found, "authorization")
    if call.request.payload:
        status = call.read(_Update).status
        if _status(row) not in {"pending", "valid"}:
            raise Problem("malformed", f"the authorization is {_status(row)} already")
        await store.set_authorization(tx, row["id"], status, row["challenges"])
        await audit.record(
            tx, call.actor, "acme_authorization.deactivated", "acme_authorization", row["id"], {}, call.request_id
        )
        crash_point("acme.authorization_deactivated")
        row = {**dict(row.items()), "status": status}  # type: ignore[assignment]  # read like a row
    waits = any(each["status"] == "processing" for each in row["challenges"])
    return Reply(shown(call, row), headers={"Retry-After": str(POLL_S)} if waits else {})


async def _locked(call: Call, tx: Transaction) -> Row:
    row = await store.authorization(tx, call.path["authorization_id"], call.account_id, lock=True)
    return of_account(row, "authorization")


def _status(row: Columns) -> str:
    return "expired" if row["run_out"] and row["status"] in {"pending", "valid"} else str(row["status"])


def shown(call: Call, row: Columns) -> dict[str, Any]:
    """Return an authorization as it is sent."""
    return dict(_fields(call, row))


def _fields(call: Call, row: Columns) -> Iterator[tuple[str, Any]]:
    yield "identifier", {"type": row["kind"], "value": row["value"]}
    yield "status", _status(row)
    yield "expires", row["expires_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
    if row["wildcard"]:
        yield "wildcard", True
    # What did not prove it is not of interest once something did (section 7.1.4).
    kept = [each for each in row["challenges"] if row["status"] == "pending" or each["status"] != "pending"]
    yield "challenges", [shown_challenge(call, row["id"], each) for each in kept or row["challenges"]]


def shown_challenge(call: Call, authorization_id: str, challenge: Challenge) -> Challenge:
    """Return a challenge as it is sent; the evidence is for the operator."""
    told = {name: value for name, value in challenge.items() if name not in _OURS}
    if challenge["type"] == acme.DNS_PERSIST_01:
        told["accounturi"] = call.account_url
    return {**told, "url": f"{call.base}/challenge/{authorization_id}/{challenge['type']}"}


async def respond(call: Call, tx: Transaction) -> tuple[Reply, Row | None]:
    """Take a client's word that a challenge is prepared (section 7.5.1); return what has to be validated, if any."""
    row = await _locked(call, tx)
    challenge = next((each for each in row["challenges"] if each["type"] == call.path["type"]), None)
    if challenge is None:
        raise Problem("malformed", "this authorization has no such challenge", HTTPStatus.NOT_FOUND)
    up = (f'<{call.base}/authz/{row["id"]}>;rel="up"',)
    url = call.request.payload
    begins = bool(url) and challenge["status"] == "pending" and _status(row) == "pending"
    if begins:
        subject = f"{row['id']} {challenge['type']}"
        await failures.check(call, tx, [row["value"]])
        await limits.take(tx, "acme challenges", subject, call.ctx.settings.acme.responds_per_hour, _HOUR)
        challenge |= {"status": "processing", "account_url": call.account_url}
        await store.set_authorization(tx, row["id"], row["status"], row["challenges"])
        details = {"type": challenge["type"], "identifier": row["value"]}
        await audit.record(
            tx, call.actor, "acme_challenge.processing", "acme_authorization", row["id"], details, call.request_id
        )
        crash_point("acme.challenge_answered")
    waits = challenge["status"] == "processing"
    headers = {"Retry-After": str(POLL_S)} if waits else {}
    reply = Reply(shown_challenge(call, row["id"], challenge), headers=headers, links=up)
    return reply, row if begins else None
