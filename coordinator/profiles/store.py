"""SQL of profiles and of the ready-made rows."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table(
    "profiles",
    (
        "name",
        "description",
        "default_issuer_id",
        "allowed_issuer_ids",
        "key_algorithms",
        "default_lifetime_s",
        "max_lifetime_s",
        "extended_key_usages",
        "allowed_names",
        "required_names",
        "spiffe_uri_pattern",
        "must_staple",
        "requires_approval",
        "approvals_required",
        "approve_renewals",
        "approver_owner_ids",
        "acme_auth_mode",
        "acme_open_accounts",
        "enabled",
    ),
)
LISTING = Listing(
    TABLE.reads,
    "profiles",
    "prof",
    filters={name: f"{name} = {{}}" for name in ("name", "enabled", "requires_approval")},
    sorts={"created_at": CREATED, "name": Sort("name")},
)


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
    return await TABLE.get(conn, profile_id)


async def issuers_among(conn: Connection, issuer_ids: Sequence[str]) -> set[str]:
    """Return those of these issuers that there are."""
    rows = await conn.fetch("SELECT id FROM issuers WHERE id = ANY($1)", list(issuer_ids))
    return {row["id"] for row in rows}


async def owners_among(conn: Connection, owner_ids: Sequence[str]) -> set[str]:
    """Return those of these owners that there are."""
    rows = await conn.fetch("SELECT id FROM owners WHERE id = ANY($1)", list(owner_ids))
    return {row["id"] for row in rows}
