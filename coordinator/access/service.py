"""Credentials: a bearer value becomes an actor; keys are made, taken from the environment and switched off.

Only SHA-256 digests are stored. The values have 256 random bits (or what the operator chose), so a slow hash would add
nothing but time to every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.access import store
from coordinator.audit import service as audit
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import EVERYTHING, Scope
from coordinator.files import alone_in, write_durably
from coordinator.limits import service as limits
from coordinator.settings import NamedKey
from coordinator.web.table import Actor
from core.crash import crash_point
from core.errors import Gone, Unauthenticated
from core.ids import new_id
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

AGENT_PREFIX = "cta_"
KEY_PREFIX = "ctk_"
SYSTEM = Actor(kind="system")


def digest(credential: str) -> bytes:
    """Return what is stored of a credential."""
    return hashlib.sha256(credential.encode()).digest()


def new_credential(prefix: str) -> Secret[str]:
    """Return a fresh value with 256 random bits; the prefix lets secret scanners recognise it."""
    return Secret(prefix + secrets.token_urlsafe(32))


def digest_of(authorization: str) -> bytes:
    """Return what is stored of the credential in an ``Authorization`` header."""
    return digest(authorization.partition(" ")[2].strip())


async def identify(ctx: Context, authorization: str, address: str = "") -> Actor:
    """Return who an ``Authorization`` header stands for; raise ``Unauthenticated``, or ``Gone`` for a retired agent.

    ``address`` is where it came from: what could be a guess is counted for it, see ``limits.guess``.
    """
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        detail = "send a credential: 'Authorization: Bearer <API key>'"
        raise Unauthenticated(detail)
    async with limits.guess(ctx, "authentication", address, credential.strip()):
        return await _look_up(ctx, credential.strip())


async def _look_up(ctx: Context, credential: str) -> Actor:
    wanted = digest(credential)
    async with ctx.db.connection() as conn:
        if credential.startswith(AGENT_PREFIX):
            return await _agent(conn, wanted)
        for row in await store.key_candidates(conn, wanted):
            if hmac.compare_digest(row["digest"], wanted):
                ctx.uses.key(row["id"])
                return _key(row)
    detail = "this API key is not known, was switched off or has expired"
    raise Unauthenticated(detail)


def _key(row: Row) -> Actor:
    scope = EVERYTHING
    if row["teams"] is not None or row["environments"] is not None:
        scope = scope_of(row)
    return Actor("key", row["id"], row["name"], row["role"], scope, row["expires_at"])


def scope_of(row: Row) -> Scope:
    """Return the scope that is stored with a key or a session."""
    return Scope(*(None if row[name] is None else tuple(row[name]) for name in ("teams", "environments")))


def within(actor: Actor) -> dict[str, Any]:
    """Return the filters of a list of credentials: those are seen whose scope lies within the actor's."""
    teams, environments = (None if names is None else list(names) for names in actor.scope)
    return {"teams_within": teams, "environments_within": environments}


async def persons_behind(conn: Connection, actors: Sequence[str]) -> list[str]:
    """Return who some actors are, in every way that is known; actors who share one of these are one person.

    That is an actor itself, a key's name, its owner, and the e-mail address of that owner or of who has signed in.
    """
    return sorted({*actors, *await store.persons_behind(conn, actors)})


async def _agent(conn: Connection, wanted: bytes) -> Actor:
    row = await store.agent_session(conn, wanted)
    if row is None:
        detail = "this agent token is not known or has expired; ask for a new one with a signed nonce"
        raise Unauthenticated(detail)
    if row["retired_at"] is not None:
        detail = f"agent {row['id']} was retired"
        raise Gone(detail)
    return Actor(kind="agent", id=row["id"], name=row["name"], role="agent")


async def _insert(conn: Connection, key: NamedKey, source: str) -> None:
    key_id = new_id("key")
    row = {"id": key_id, "name": key.name, "role": key.role, "digest": digest(key.key.reveal()), "source": source}
    await store.insert_key(conn, {**row, "expires_at": None})
    details = {"name": key.name, "role": key.role, "source": source}
    await audit.record(conn, SYSTEM, "api_key.created", "api_key", key_id, details)


async def take_environment_keys(conn: Connection, keys: tuple[NamedKey, ...]) -> None:
    """Make the stored environment keys those of CERTCTL_API_KEYS_NAMED: add new ones, switch missing ones off."""
    stored = {(row["name"], row["role"], row["digest"]): row["id"] for row in await store.environment_keys(conn)}
    wanted = {(key.name, key.role, digest(key.key.reveal())): key for key in keys}
    gone = [key_id for identity, key_id in stored.items() if identity not in wanted]
    if gone:
        await store.disable_keys(conn, gone)
        for key_id in gone:
            await audit.record(conn, SYSTEM, "api_key.disabled", "api_key", key_id, {"source": "environment"})
    for identity, key in wanted.items():
        if identity not in stored:
            await _insert(conn, key, "environment")


async def make_first_key(conn: Connection, path: Path) -> bool:
    """Make one admin key and write it to ``path`` (0600) when no key exists at all; say whether it did."""
    if await store.any_key(conn):
        return False
    value = new_credential(KEY_PREFIX)
    await _insert(conn, NamedKey("admin", value, "admin"), "database")
    with alone_in(path.parent):
        write_durably(path, value.reveal().encode() + b"\n")
    crash_point("start.admin_key")
    return True
