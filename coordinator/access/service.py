"""Credentials: a bearer value becomes an actor; keys are made, taken from the environment and switched off.

Only SHA-256 digests are stored. The values have 256 random bits (or what the operator chose), so a slow hash would add
nothing but time to every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.access import store
from coordinator.audit import service as audit
from coordinator.database.connection import Connection
from coordinator.files import alone_in, write_durably
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


async def identify(ctx: Context, authorization: str) -> Actor:
    """Return who an ``Authorization`` header stands for; raise ``Unauthenticated``, or ``Gone`` for a retired agent."""
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        detail = "send a credential: 'Authorization: Bearer <API key>'"
        raise Unauthenticated(detail)
    wanted = digest(credential.strip())
    async with ctx.db.connection() as conn:
        if credential.startswith(AGENT_PREFIX):
            return await _agent(conn, wanted)
        for row in await store.key_candidates(conn, wanted):
            if hmac.compare_digest(row["digest"], wanted):
                return Actor(kind="key", id=row["id"], name=row["name"], role=row["role"])
    detail = "this API key is not known, was switched off or has expired"
    raise Unauthenticated(detail)


async def _agent(conn: Connection, wanted: bytes) -> Actor:
    row = await store.agent_session(conn, wanted)
    if row is None:
        detail = "this agent token is not known or has expired; ask for a new one with a signed nonce"
        raise Unauthenticated(detail)
    if row["retired_at"] is not None:
        detail = f"agent {row['id']} was retired"
        raise Gone(detail)
    return Actor(kind="agent", id=row["id"], name=row["name"], role="agent")


async def create_key(
    conn: Connection, actor: Actor, name: str, role: str, ttl: timedelta | None, now: datetime, request_id: str = ""
) -> tuple[str, Secret[str]]:
    """Make a key and return its id and its value, which is shown this once."""
    key_id, value = new_id("key"), new_credential(KEY_PREFIX)
    await _insert(conn, actor, NamedKey(name, value, role), key_id, "database", now + ttl if ttl else None, request_id)
    return key_id, value


async def _insert(
    conn: Connection,
    actor: Actor,
    key: NamedKey,
    key_id: str,
    source: str,
    expires_at: datetime | None = None,
    request_id: str = "",
) -> None:
    row = {"id": key_id, "name": key.name, "role": key.role, "digest": digest(key.key.reveal())}
    await store.insert_key(conn, {**row, "source": source, "expires_at": expires_at})
    details = {"name": key.name, "role": key.role, "source": source}
    await audit.record(conn, actor, "api_key.created", "api_key", key_id, details, request_id)


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
            await _insert(conn, SYSTEM, key, new_id("key"), "environment")


async def make_first_key(conn: Connection, path: Path, now: datetime) -> bool:
    """Make one admin key and write it to ``path`` (0600) when no key exists at all; say whether it did."""
    if await store.any_key(conn):
        return False
    _, value = await create_key(conn, SYSTEM, "admin", "admin", None, now)
    with alone_in(path.parent):
        write_durably(path, value.reveal().encode() + b"\n")
    crash_point("start.admin_key")
    return True
