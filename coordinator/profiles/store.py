"""SQL of profiles and of the ready-made rows."""

from __future__ import annotations

from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing

COLUMNS = """id, name, description, default_issuer_id, key_algorithms, default_lifetime_s, max_lifetime_s,
  extended_key_usages, allowed_names, enabled, created_at"""
LISTING = Listing(COLUMNS, "profiles", "prof")


async def ensure_defaults(conn: Connection, issuer_id: str) -> None:
    """Create the rows that a certificate uses when nothing else is said."""
    await conn.execute("INSERT INTO teams (id, name) VALUES ('default', 'default') ON CONFLICT DO NOTHING")
    await conn.execute(
        "INSERT INTO owners (id, name, team_id) VALUES ('default', 'default', 'default') ON CONFLICT DO NOTHING"
    )
    await conn.execute(
        "INSERT INTO renewal_policies (id, name) VALUES ('rp-default', 'At a third of the lifetime') "
        "ON CONFLICT DO NOTHING"
    )
    await conn.execute(
        """
        INSERT INTO profiles (id, name, description, default_issuer_id, key_algorithms, default_lifetime_s,
                              max_lifetime_s, extended_key_usages)
        VALUES ('prof-default', 'Default', 'Server certificates of any name, 47 days', $1,
          '{ecdsa-p256,ecdsa-p384,rsa-2048,rsa-3072,rsa-4096,ed25519}', 47 * 86400, 398 * 86400,
          '{serverAuth,clientAuth}')
        ON CONFLICT DO NOTHING
        """,
        issuer_id,
    )


async def get(conn: Connection, profile_id: str) -> Row | None:
    """Return one profile."""
    return await conn.fetchrow(f"SELECT {COLUMNS} FROM profiles WHERE id = $1", profile_id)


async def insert(conn: Connection, profile: dict[str, Any]) -> None:
    """Store a new profile."""
    await conn.execute(
        """
        INSERT INTO profiles (id, name, description, default_issuer_id, key_algorithms, default_lifetime_s,
                              max_lifetime_s, extended_key_usages, allowed_names)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        *(profile[name.strip()] for name in COLUMNS.split(",")[:9]),
    )


async def days_before(conn: Connection, policy_id: str) -> Row | None:
    """Return when a renewal policy renews."""
    return await conn.fetchrow("SELECT auto_renew, days_before FROM renewal_policies WHERE id = $1", policy_id)
