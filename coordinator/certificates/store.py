"""SQL of certificates and their versions."""

from __future__ import annotations

from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing

COLUMNS = """id, name, common_name, names, profile_id, issuer_id, renewal_policy_id, owner_id, team_id, environment,
  tags, key_algorithm, lifetime_s, created_at, updated_at"""
LISTING = Listing(
    COLUMNS,
    "certificates",
    "mc",
    filters={
        "common_name": "common_name = {}",
        "environment": "environment = {}",
        "agent_id": "EXISTS (SELECT FROM holders WHERE certificate_id = certificates.id AND agent_id = {})",
    },
)
VERSIONS = Listing(
    """id, certificate_id, generation, holder, issuer_id, serial, fingerprint, spki_sha256, key_algorithm, not_before,
      not_after, revoked_at, created_at, der,
      array(SELECT issuers.der FROM unnest(chain) WITH ORDINALITY AS link(fingerprint, place)
            JOIN issuer_certificates AS issuers USING (fingerprint) ORDER BY place) AS issuers""",
    "certificate_versions",
    "cv",
    filters={"certificate_id": "certificate_id = {}"},
)
_WRITTEN = tuple(name.strip() for name in COLUMNS.split(",")[:13])


async def insert(conn: Connection, certificate: dict[str, Any]) -> None:
    """Store a wanted certificate."""
    await conn.execute(
        f"""
        INSERT INTO certificates ({", ".join(_WRITTEN)})
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        """,
        *(certificate[name] for name in _WRITTEN),
    )


async def get(conn: Connection, certificate_id: str, *, lock: bool = False) -> Row | None:
    """Return one certificate, locked until the transaction's end when asked; jobs that name it may still come in."""
    return await conn.fetchrow(
        f"SELECT {COLUMNS} FROM certificates WHERE id = $1 {'FOR NO KEY UPDATE' if lock else ''}", certificate_id
    )
