"""SQL of certificates and their versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row

COLUMNS = """id, name, common_name, names, profile_id, issuer_id, renewal_policy_id, owner_id, team_id, environment,
  tags, key_algorithm, lifetime_s, created_at, updated_at"""
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


async def select(
    conn: Connection, filters: dict[str, str | None], limit: int, offset: int, after: tuple[datetime, str] | None
) -> list[Row]:
    """Return certificates, newest first."""
    moment, row_id = after or (None, None)
    return await conn.fetch(
        f"""
        SELECT {COLUMNS} FROM certificates
        WHERE ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
          AND ($5::text IS NULL OR common_name = $5) AND ($6::text IS NULL OR environment = $6)
          AND ($7::text IS NULL OR EXISTS (
            SELECT FROM holders WHERE certificate_id = certificates.id AND agent_id = $7))
        ORDER BY created_at DESC, id DESC LIMIT $1 OFFSET $2
        """,
        limit,
        offset,
        moment,
        row_id,
        *_filter_values(filters),
    )


async def count(conn: Connection, filters: dict[str, str | None], most: int) -> int:
    """Count matching certificates, at most ``most``."""
    return int(
        await conn.fetchval(
            """
            SELECT count(*) FROM (SELECT FROM certificates
              WHERE ($2::text IS NULL OR common_name = $2) AND ($3::text IS NULL OR environment = $3)
                AND ($4::text IS NULL OR EXISTS (
                  SELECT FROM holders WHERE certificate_id = certificates.id AND agent_id = $4))
              LIMIT $1) AS matches
            """,
            most,
            *_filter_values(filters),
        )
    )


def _filter_values(filters: dict[str, str | None]) -> tuple[str | None, ...]:
    return tuple(filters[name] for name in ("common_name", "environment", "agent_id"))


async def versions(
    conn: Connection, certificate_id: str, limit: int, offset: int, after: tuple[datetime, str] | None
) -> list[Row]:
    """Return what was issued for a certificate, newest first, with its chain."""
    moment, row_id = after or (None, None)
    return await conn.fetch(
        """
        SELECT id, certificate_id, generation, holder, issuer_id, serial, fingerprint, spki_sha256, key_algorithm,
          not_before, not_after, revoked_at, created_at, der,
          array(SELECT issuers.der FROM unnest(versions.chain) WITH ORDINALITY AS link(fingerprint, place)
                JOIN issuer_certificates AS issuers USING (fingerprint) ORDER BY place) AS issuers
        FROM certificate_versions AS versions
        WHERE certificate_id = $1 AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
        ORDER BY created_at DESC, id DESC LIMIT $2 OFFSET $3
        """,
        certificate_id,
        limit,
        offset,
        moment,
        row_id,
    )


async def count_versions(conn: Connection, certificate_id: str) -> int:
    """Count what was issued for a certificate."""
    return int(
        await conn.fetchval("SELECT count(*) FROM certificate_versions WHERE certificate_id = $1", certificate_id)
    )
