"""The rules of API keys: nobody gives more than they have, nobody raises themselves, and one admin key always stays.

A key from CERTCTL_API_KEYS_NAMED is what the environment says; over HTTP it can only be looked at.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from coordinator.access import store
from coordinator.access.service import KEY_PREFIX, digest, new_credential, scope_of
from coordinator.audit import service as audit
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Scope
from coordinator.web.table import ROLE_PERMISSIONS, Actor
from core.errors import Conflict, Forbidden, InvalidInput, NotFound
from core.ids import new_id
from core.secret import Secret

LONGEST = timedelta(days=3650)
Values = dict[str, Any]


async def visible(conn: Connection, actor: Actor, key_id: str) -> Row:
    """Return a key that an actor may see: one whose scope lies within the actor's; raise ``NotFound``."""
    return _seen(await store.key(conn, key_id), actor, key_id)


async def changeable(tx: Transaction, actor: Actor, key_id: str) -> Row:
    """Return a key, locked, that an actor may change; raise ``NotFound``, ``Forbidden`` or ``Conflict``."""
    row = _seen(await store.lock_key(tx, key_id), actor, key_id)
    if row["source"] == "environment":
        detail = f"{key_id} comes from CERTCTL_API_KEYS_NAMED; change it there and start the coordinators again"
        raise Conflict(detail)
    if row["disabled_at"] is not None:
        detail = f"{key_id} was switched off for good; make another key"
        raise Conflict(detail)
    _check_gives(actor, row["role"], scope_of(row))
    return row


async def make(
    tx: Transaction, actor: Actor, values: Values, now: datetime, request_id: str
) -> tuple[Row, Secret[str]]:
    """Make a key; return it and its value, which is shown this once."""
    await _check(tx, actor, values, now)
    value = new_credential(KEY_PREFIX)
    stored = {**values, "id": new_id("key"), "digest": digest(value.reveal()), "source": "database"}
    row = await store.insert_key(tx, stored)
    await _record(tx, actor, "created", row["id"], {**_told(values), "source": "database"}, request_id)
    return row, value


async def change(tx: Transaction, actor: Actor, before: Row, values: Values, now: datetime, request_id: str) -> Row:
    """Give a locked key other rights."""
    key_id = before["id"]
    rights = ("role", "teams", "environments", "expires_at")
    if _is_itself(actor, key_id) and any(values[name] != before[name] for name in rights):
        detail = "a key does not change its own role, scope or end; another admin can"
        raise Forbidden(detail)
    await _check(tx, actor, values, now, before)
    row = await store.update_key(tx, key_id, values)
    if _is_full_admin(before) and not _is_full_admin(row):
        await _check_admin_left(tx, key_id)
    await _record(tx, actor, "updated", key_id, _told(values), request_id)
    return row


async def switch_off(tx: Transaction, actor: Actor, row: Row, request_id: str) -> None:
    """Make a locked key unusable at once, with every value of it."""
    if _is_full_admin(row):
        await _check_admin_left(tx, row["id"])
    await store.disable_keys(tx, [row["id"]])
    await _record(tx, actor, "disabled", row["id"], {"name": row["name"], "source": row["source"]}, request_id)


async def rotate(
    tx: Transaction, actor: Actor, row: Row, overlap: timedelta, now: datetime, request_id: str
) -> tuple[Row, Secret[str]]:
    """Give a locked key a new value, shown this once; the one before works for ``overlap``."""
    key_id, value = row["id"], new_credential(KEY_PREFIX)
    if row["expires_at"] is not None and row["expires_at"] <= now:
        detail = f"{key_id} has expired; give it a later end first, or make another key"
        raise Conflict(detail)
    changed = await store.rotate(tx, key_id, digest(value.reveal()), overlap)
    details = {"name": row["name"], "overlap_s": int(overlap.total_seconds())}
    await _record(tx, actor, "rotated", key_id, details, request_id)
    return changed, value


def _seen(row: Row | None, actor: Actor, key_id: str) -> Row:
    if row is None or not actor.scope.covers(scope_of(row)):
        detail = f"there is no API key {key_id}"
        raise NotFound(detail)
    return row


async def _check(tx: Transaction, actor: Actor, values: Values, now: datetime, before: Row | None = None) -> None:
    for field in ("name", "description"):
        if any(ord(c) < 32 and c != "\n" for c in values[field]):  # noqa: PLR2004 - control characters
            raise InvalidInput.of(field, "holds a control character; remove it")
    ends = values["expires_at"]
    if ends is not None and not now < ends <= now + LONGEST and (before is None or ends != before["expires_at"]):
        raise InvalidInput.of("expires_at", f"is {ends}; a key ends after now and within ten years")
    for team in await store.missing_teams(tx, values["teams"] or []):
        raise InvalidInput.of("teams", f"there is no team {team}")
    _check_gives(actor, values["role"], Scope(_tuple(values["teams"]), _tuple(values["environments"])))


def _check_gives(actor: Actor, role: str, scope: Scope) -> None:
    """Raise ``Forbidden`` when a key with this role and scope could do what the actor cannot."""
    more = ROLE_PERMISSIONS[role] - actor.permissions
    if more:
        detail = f"the role {role!r} may do what yours may not ({', '.join(sorted(more))}); give less"
        raise Forbidden(detail)
    if not actor.scope.covers(scope):
        detail = "this key would reach further than yours: name teams and environments out of your own scope"
        raise Forbidden(detail)


def _is_itself(actor: Actor, key_id: str) -> bool:
    return actor.kind == "key" and actor.id == key_id


def _is_full_admin(row: Row) -> bool:
    return row["role"] == "admin" and row["teams"] is None and row["environments"] is None


async def _check_admin_left(tx: Transaction, key_id: str) -> None:
    if not await store.other_admins(tx, key_id):
        detail = f"{key_id} is the last admin key without a scope; make another one first"
        raise Conflict(detail)


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _told(values: Values) -> Values:
    ends = values["expires_at"]
    return {**values, "expires_at": ends and ends.isoformat()}


async def _record(tx: Transaction, actor: Actor, what: str, key_id: str, told: Values, request_id: str) -> None:
    await audit.record(tx, actor, f"api_key.{what}", "api_key", key_id, told, request_id)
