"""SQL of rules, of what they look at, and of violations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table("policies", ("name", "description", "type", "config", "severity", "enforce", "enabled"))
LISTING = Listing(
    TABLE.reads,
    "policies",
    "pol",
    filters={name: f"{name} = {{}}" for name in ("name", "type", "severity", "enforce", "enabled")},
    sorts={"created_at": CREATED, "name": Sort("name")},
)
VIOLATIONS = Listing(
    "id, rule_id, rule_name, certificate_id, common_name, severity, enforce, field, message, created_at, closed_at",
    """(SELECT violations.*, policies.name AS rule_name, enforce, common_name, team_id, environment
        FROM policy_violations AS violations JOIN policies ON policies.id = rule_id
        JOIN certificates ON certificates.id = certificate_id) AS violations""",
    "vio",
    filters={
        "rule_id": "rule_id = {}",
        "certificate_id": "certificate_id = {}",
        "severity": "severity = {}",
        "open": "(closed_at IS NULL) = {}",
    },
    team="team_id",
    environment="environment",
)


async def enabled(conn: Connection) -> list[Row]:
    """Return the rules that hold, in a fixed order."""
    return await conn.fetch(f"SELECT {TABLE.reads} FROM policies WHERE enabled ORDER BY id")


_WANTED = """
  SELECT certificates.id, names, owner_id, owners.email AS owner_email, environment, tags, issuer_id, key_algorithm,
    lifetime_s, auto_renew, days_before, archived
  FROM certificates JOIN owners ON owners.id = owner_id
  JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
"""


async def wanted(conn: Connection, certificate_id: str) -> Row | None:
    """Return what rules look at of a certificate."""
    return await conn.fetchrow(f"{_WANTED} WHERE certificates.id = $1", certificate_id)


async def wanted_all(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return the same of some certificates."""
    return await conn.fetch(f"{_WANTED} WHERE certificates.id = ANY($1)", certificate_ids)


async def wanted_after(conn: Connection, certificate_id: str, limit: int) -> list[Row]:
    """Return the same of the next certificates after one, by id."""
    return await conn.fetch(
        f"{_WANTED} WHERE certificates.id > $1 ORDER BY certificates.id LIMIT $2", certificate_id, limit
    )


async def open_violations(conn: Connection, found: Sequence[dict[str, Any]]) -> None:
    """Store violations; one that is open already gets the newest words."""
    await conn.executemany(
        """
        INSERT INTO policy_violations (id, rule_id, certificate_id, severity, field, message)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (rule_id, certificate_id) WHERE closed_at IS NULL
        DO UPDATE SET severity = excluded.severity, field = excluded.field, message = excluded.message
        WHERE (policy_violations.severity, policy_violations.field, policy_violations.message)
          IS DISTINCT FROM (excluded.severity, excluded.field, excluded.message)
        """,
        [
            tuple(each[name] for name in ("id", "rule_id", "certificate_id", "severity", "field", "message"))
            for each in found
        ],
    )


async def just_opened(conn: Connection, certificate_id: str) -> list[Row]:
    """Return the violations of a certificate that this transaction has opened, with the rules' names."""
    return await conn.fetch(
        """
        SELECT violations.id, rule_id, violations.severity, message, policies.name
        FROM policy_violations AS violations JOIN policies ON policies.id = rule_id
        WHERE certificate_id = $1 AND closed_at IS NULL AND violations.created_at = now()
        """,
        certificate_id,
    )


async def close_violations(conn: Connection, kept: Sequence[tuple[str, str]]) -> None:
    """Close what was open of pairs of rule and certificate that fit now."""
    await conn.execute(
        """
        UPDATE policy_violations SET closed_at = now()
        FROM unnest($1::text[], $2::text[]) AS kept (rule_id, certificate_id)
        WHERE closed_at IS NULL AND policy_violations.rule_id = kept.rule_id
          AND policy_violations.certificate_id = kept.certificate_id
        """,
        [rule_id for rule_id, _ in kept],
        [certificate_id for _, certificate_id in kept],
    )


async def mark(conn: Connection, rule_id: str) -> None:
    """Say that every certificate has to be held against a rule, from the beginning."""
    await conn.execute(
        "INSERT INTO policy_scans (rule_id) VALUES ($1) ON CONFLICT (rule_id) DO UPDATE SET after_id = ''", rule_id
    )


async def mark_types(conn: Connection, types: Sequence[str]) -> int:
    """Say so of the rules of some types that hold; return how many there are."""
    return await conn.execute(
        """
        INSERT INTO policy_scans (rule_id) SELECT id FROM policies WHERE enabled AND type = ANY($1) ORDER BY id
        ON CONFLICT (rule_id) DO UPDATE SET after_id = ''
        """,
        list(types),
    )


async def next_scan(conn: Connection) -> Row | None:
    """Return a rule to scan by, its scan locked, if there is one that nobody else works on."""
    return await conn.fetchrow(
        """
        SELECT after_id, policies.* FROM policy_scans JOIN policies ON policies.id = rule_id
        ORDER BY rule_id LIMIT 1 FOR UPDATE OF policy_scans SKIP LOCKED
        """
    )


async def scanned(conn: Connection, rule_id: str, after_id: str | None) -> None:
    """Note how far a scan has come; None when it is done."""
    if after_id is None:
        await conn.execute("DELETE FROM policy_scans WHERE rule_id = $1", rule_id)
    else:
        await conn.execute("UPDATE policy_scans SET after_id = $2 WHERE rule_id = $1", rule_id, after_id)
