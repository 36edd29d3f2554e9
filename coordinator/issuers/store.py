"""SQL of issuers, their keys and their CRLs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing

COLUMNS = "id, name, type, enabled, created_at"
LISTING = Listing(COLUMNS, "issuers", "iss")


async def insert(conn: Connection, issuer_id: str, name: str, kind: str) -> bool:
    """Create an issuer unless it is there; say whether it was created."""
    return bool(
        await conn.execute(
            "INSERT INTO issuers (id, name, type) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", issuer_id, name, kind
        )
    )


async def get(conn: Connection, issuer_id: str, *, lock: bool = False) -> Row | None:
    """Return one issuer, locked until the transaction's end when asked."""
    return await conn.fetchrow(
        f"SELECT {COLUMNS} FROM issuers WHERE id = $1 {'FOR UPDATE' if lock else ''}",
        issuer_id,
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
