"""SQL of issuers, their keys and their CRLs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table("issuers", ("name", "type", "config", "enabled", "parent_issuer_id", "secret_paths"))
LISTING = Listing(
    TABLE.reads,
    "issuers",
    "iss",
    filters={
        "name": "name = {}",
        "type": "type = lower({})",
        "enabled": "enabled = {}",
        "parent_issuer_id": "parent_issuer_id = {}",
        "q": "strpos(lower(concat_ws(' ', id, name)), lower({})) > 0",
    },
    sorts={
        "created_at": CREATED,
        "updated_at": Sort("updated_at", "timestamptz"),
        "name": Sort("name"),
        "type": Sort("type"),
    },
)
KEYS = "issuer_id, ski, chain, is_current, not_after, created_at"


async def insert(conn: Connection, issuer_id: str, name: str, kind: str) -> bool:
    """Create an issuer unless it is there; say whether it was created."""
    return bool(
        await conn.execute(
            "INSERT INTO issuers (id, name, type) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", issuer_id, name, kind
        )
    )


async def get(conn: Connection, issuer_id: str, *, lock: bool = False) -> Row | None:
    """Return one issuer, locked until the transaction's end when asked; rows that name it may still come in."""
    tail = "FOR NO KEY UPDATE" if lock else ""
    return await conn.fetchrow(f"SELECT {TABLE.reads} FROM issuers WHERE id = $1 {tail}", issuer_id)


async def set_secrets(conn: Connection, issuer_id: str, sealed: bytes) -> None:
    """Store the sealed secrets of a configuration, or none."""
    await conn.execute("UPDATE issuers SET sealed_secrets = $2 WHERE id = $1", issuer_id, sealed)


async def sealed_secrets(conn: Connection, issuer_id: str) -> bytes:
    """Return the sealed secrets of a configuration, empty where it has none."""
    return bytes(await conn.fetchval("SELECT sealed_secrets FROM issuers WHERE id = $1", issuer_id) or b"")


async def remove(conn: Connection, issuer_id: str) -> None:
    """Remove an issuer with its keys, accounts and CRLs; a violated reference passes through."""
    await conn.execute("DELETE FROM issuer_accounts WHERE issuer_id = $1", issuer_id)
    await conn.execute("DELETE FROM crls WHERE issuer_id = $1", issuer_id)
    await conn.execute("DELETE FROM issuer_keys WHERE issuer_id = $1", issuer_id)
    await TABLE.remove(conn, issuer_id)


async def set_config(conn: Connection, issuer_id: str, config: dict[str, Any]) -> None:
    """Store what an issuer's newest key was made of."""
    await conn.execute(
        "UPDATE issuers SET config = $2, revision = revision + 1, updated_at = now() WHERE id = $1", issuer_id, config
    )


async def users(conn: Connection, issuer_id: str) -> list[tuple[str, int, list[str]]]:
    """Return what refers to an issuer: plural words, how many (counted up to 1,000), the ids of a few."""
    places = (
        ("issuers below it", "issuers", "parent_issuer_id"),
        ("profiles", "profiles", "default_issuer_id"),
        ("certificates", "certificates", "issuer_id"),
        ("issued versions", "certificate_versions", "issuer_id"),
        ("requests", "issuance_requests", "issuer_id"),
        ("orders", "ca_orders", "issuer_id"),
    )
    return [
        (words, *await TABLE.count_users(conn, table, f"{column} = $1", issuer_id)) for words, table, column in places
    ]


async def current_keys(conn: Connection, issuer_ids: Sequence[str]) -> dict[str, Row]:
    """Return issuer → current key for some issuers."""
    rows = await conn.fetch(f"SELECT {KEYS} FROM issuer_keys WHERE issuer_id = ANY($1) AND is_current", issuer_ids)
    return {row["issuer_id"]: row for row in rows}


async def keys_of(conn: Connection, issuer_id: str) -> list[Row]:
    """Return all keys of an issuer, the current one first, then from the newest on."""
    return await conn.fetch(
        f"SELECT {KEYS} FROM issuer_keys WHERE issuer_id = $1 ORDER BY is_current DESC, created_at DESC, ski", issuer_id
    )


async def insert_key(
    conn: Connection, issuer_id: str, ski: str, chain: Sequence[bytes], sealed_key: bytes, not_after: datetime
) -> None:
    """Store a key and make it the issuer's current one; the key before it keeps serving its CRL."""
    await conn.execute("UPDATE issuer_keys SET is_current = false WHERE issuer_id = $1", issuer_id)
    await conn.execute(
        """
        INSERT INTO issuer_keys (issuer_id, ski, chain, sealed_key, not_after) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (issuer_id, ski) DO UPDATE
          SET is_current = true, chain = excluded.chain, sealed_key = excluded.sealed_key,
            not_after = excluded.not_after
        """,
        issuer_id,
        ski,
        list(chain),
        sealed_key,
        not_after,
    )


async def key(conn: Connection, issuer_id: str, ski: str | None = None) -> Row | None:
    """Return one key of an issuer; the current one when ``ski`` is None."""
    return await conn.fetchrow(
        """
        SELECT issuer_id, ski, chain, sealed_key, is_current, not_after FROM issuer_keys
        WHERE issuer_id = $1 AND CASE WHEN $2::text IS NULL THEN is_current ELSE ski = $2 END
        """,
        issuer_id,
        ski,
    )


async def signing_key(conn: Connection, issuer_id: str, ski: str | None = None) -> Row | None:
    """Return whether an issuer is switched on, with such a key of it; the key's columns are null where it has none."""
    return await conn.fetchrow(
        """
        SELECT enabled AS issuer_enabled, ski, chain, sealed_key FROM issuers LEFT JOIN issuer_keys
          ON issuer_id = issuers.id AND CASE WHEN $2::text IS NULL THEN is_current ELSE ski = $2 END
        WHERE issuers.id = $1
        """,
        issuer_id,
        ski,
    )


async def keys(conn: Connection) -> list[Row]:
    """Return every sealed key, for a check at start that they open."""
    return await conn.fetch("SELECT issuer_id, ski, sealed_key FROM issuer_keys")


async def save_sealed_key(conn: Connection, issuer_id: str, ski: str, sealed_key: bytes) -> None:
    """Store a key that was sealed anew."""
    await conn.execute(
        "UPDATE issuer_keys SET sealed_key = $3 WHERE issuer_id = $1 AND ski = $2", issuer_id, ski, sealed_key
    )


async def lock_key(conn: Connection, issuer_id: str, ski: str) -> None:
    """Hold a key's row until the transaction's end, so that one CRL is made at a time."""
    await conn.execute("SELECT FROM issuer_keys WHERE issuer_id = $1 AND ski = $2 FOR UPDATE", issuer_id, ski)


async def crl(conn: Connection, issuer_id: str, ski: str) -> Row | None:
    """Return the newest CRL of a key."""
    return await conn.fetchrow(
        "SELECT number, this_update, next_update, der FROM crls WHERE issuer_id = $1 AND ski = $2", issuer_id, ski
    )


async def save_crl(
    conn: Connection, issuer_id: str, ski: str, number: int, this_update: datetime, next_update: datetime, der: bytes
) -> None:
    """Store a key's newest CRL in place of the one before."""
    await conn.execute(
        """
        INSERT INTO crls (issuer_id, ski, number, this_update, next_update, der) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (issuer_id, ski) DO UPDATE SET number = excluded.number, this_update = excluded.this_update,
          next_update = excluded.next_update, der = excluded.der
        """,
        issuer_id,
        ski,
        number,
        this_update,
        next_update,
        der,
    )


async def revoked(conn: Connection, issuer_id: str, ski: str, now: datetime) -> list[Row]:
    """Return what was revoked under a key and has not expired yet (RFC 5280 section 3.3)."""
    return await conn.fetch(
        """
        SELECT serial, revoked_at, revocation_reason FROM certificate_versions
        WHERE issuer_id = $1 AND issuer_ski = $2 AND revoked_at IS NOT NULL AND not_after > $3 ORDER BY revoked_at
        """,
        issuer_id,
        ski,
        now,
    )
