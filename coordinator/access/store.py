"""SQL of API keys and of the look-up that every authenticated request starts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort
from core.errors import InvalidInput

LOOKUP_BYTES = 8
COLUMNS = (
    "id, name, role, description, owner_id, teams, environments, source, expires_at, disabled_at, last_used_at, "
    "rotated_at, CASE WHEN previous_until > now() THEN previous_until END AS previous_until, revision, created_at, "
    "updated_at"
)
_USABLE = "disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
KEYS = Listing(
    COLUMNS,
    "api_keys",
    "key",
    filters={
        **{name: f"{name} = {{}}" for name in ("name", "role", "owner_id", "source")},
        "usable": f"({_USABLE}) = {{}}",
        "team": "teams @> ARRAY[{}::text]",
        "teams_within": "teams <@ {}::text[]",
        "environments_within": "environments <@ {}::text[]",
    },
    sorts={
        "created_at": CREATED,
        "name": Sort("name"),
        "role": Sort("role"),
        "last_used_at": Sort("coalesce(last_used_at, 'epoch')", "timestamptz"),
        "expires_at": Sort("coalesce(expires_at, timestamptz '9999-12-31 00:00:00+00')", "timestamptz"),
    },
)


async def key_candidates(conn: Connection, digest: bytes) -> list[Row]:
    """Return the usable keys with a value whose digest begins like ``digest``.

    The caller compares the whole in constant time. All that a request needs to know of its key comes with it: this is
    the one statement that every request pays for.
    """
    return await conn.fetch(
        f"""
        SELECT id, name, role, teams, environments, expires_at, digest FROM api_keys
        WHERE lookup = $1 AND {_USABLE}
        UNION ALL
        SELECT id, name, role, teams, environments, least(expires_at, previous_until), previous_digest FROM api_keys
        WHERE previous_lookup = $1 AND previous_until > now() AND {_USABLE}
        """,
        digest[:LOOKUP_BYTES],
    )


async def agent_session(conn: Connection, digest: bytes) -> Row | None:
    """Return the agent behind a session that has not expired."""
    return await conn.fetchrow(
        """
        SELECT agents.id, agents.name, agents.retired_at FROM agent_sessions
        JOIN agents ON agents.id = agent_sessions.agent_id
        WHERE agent_sessions.digest = $1 AND agent_sessions.expires_at > now()
        """,
        digest,
    )


async def persons_behind(conn: Connection, actors: Sequence[str]) -> list[str]:
    """Return names, owners and addresses of keys and people, each with its kind in front."""
    rows = await conn.fetch(
        """
        WITH keys AS (SELECT name, owner_id FROM api_keys WHERE id = ANY($1)),
          addresses AS (
            SELECT lower(email) AS email FROM owners JOIN keys ON keys.owner_id = owners.id
            UNION SELECT lower(email) FROM people WHERE id = ANY($2))
        SELECT 'name:' || name AS person FROM keys
        UNION SELECT 'owner:' || owner_id FROM keys WHERE owner_id IS NOT NULL
        UNION SELECT 'mail:' || email FROM addresses WHERE email <> ''
        UNION SELECT 'owner:' || owners.id FROM owners JOIN addresses ON lower(owners.email) = addresses.email
          WHERE addresses.email <> ''
        """,
        [actor.removeprefix("key:") for actor in actors if actor.startswith("key:")],
        [actor.removeprefix("person:") for actor in actors if actor.startswith("person:")],
    )
    return [row["person"] for row in rows]


async def key(conn: Connection, key_id: str) -> Row | None:
    """Return a key."""
    return await conn.fetchrow(f"SELECT {COLUMNS} FROM api_keys WHERE id = $1", key_id)


async def lock_key(tx: Transaction, key_id: str) -> Row | None:
    """Return a key, locked together with every key that may be the last one of an admin.

    Always in the same order: of two admins who switch each other off at the same moment, one comes second.
    """
    await tx.execute(
        """
        SELECT FROM api_keys WHERE id = $1 OR (role = 'admin' AND disabled_at IS NULL) ORDER BY id FOR NO KEY UPDATE
        """,
        key_id,
    )
    return await key(tx, key_id)


async def other_admins(conn: Connection, key_id: str) -> bool:
    """Say whether another usable key than this one may do everything everywhere."""
    return bool(
        await conn.fetchval(
            f"""
            SELECT EXISTS (
              SELECT FROM api_keys
              WHERE role = 'admin' AND teams IS NULL AND environments IS NULL AND id <> $1 AND {_USABLE}
            )
            """,
            key_id,
        )
    )


async def insert_key(tx: Connection, row: Mapping[str, Any]) -> Row:
    """Store a key's digest and what it may do; ``InvalidInput`` for an owner that is not there."""
    try:
        made = await tx.fetchrow(
            f"""
            INSERT INTO api_keys (id, name, role, description, owner_id, teams, environments, lookup, digest, source,
              expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING {COLUMNS}
            """,
            row["id"],
            row["name"],
            row["role"],
            row.get("description", ""),
            row.get("owner_id"),
            row.get("teams"),
            row.get("environments"),
            row["digest"][:LOOKUP_BYTES],
            row["digest"],
            row["source"],
            row["expires_at"],
        )
    except driver.ForeignKeyViolation as error:
        raise _no_owner(row["owner_id"]) from error
    assert made is not None  # noqa: S101 - an insert returns its row
    return made


async def update_key(tx: Connection, key_id: str, row: Mapping[str, Any]) -> Row:
    """Give a locked key new rights; ``InvalidInput`` for an owner that is not there."""
    try:
        changed = await tx.fetchrow(
            f"""
            UPDATE api_keys SET name = $2, role = $3, description = $4, owner_id = $5, teams = $6, environments = $7,
              expires_at = $8, revision = revision + 1, updated_at = now()
            WHERE id = $1 RETURNING {COLUMNS}
            """,
            key_id,
            *(row[name] for name in ("name", "role", "description", "owner_id", "teams", "environments", "expires_at")),
        )
    except driver.ForeignKeyViolation as error:
        raise _no_owner(row["owner_id"]) from error
    assert changed is not None  # noqa: S101 - the caller has it locked
    return changed


def _no_owner(owner_id: str | None) -> InvalidInput:
    return InvalidInput.of("owner_id", f"there is no owner {owner_id}")


async def missing_teams(tx: Connection, teams: Sequence[str]) -> list[str]:
    """Return those of these teams that are not there; the others stay until the transaction's end."""
    rows = await tx.fetch("SELECT id FROM teams WHERE id = ANY($1) FOR KEY SHARE", teams)
    there = {row["id"] for row in rows}
    return [team for team in teams if team not in there]


async def rotate(tx: Connection, key_id: str, digest: bytes, overlap: timedelta) -> Row:
    """Give a locked key a new value; the one before works for ``overlap``, the one before that not any more."""
    changed = await tx.fetchrow(
        f"""
        UPDATE api_keys SET previous_lookup = lookup, previous_digest = digest, previous_until = now() + $4,
          lookup = $2, digest = $3, rotated_at = now(), revision = revision + 1, updated_at = now()
        WHERE id = $1 RETURNING {COLUMNS}
        """,
        key_id,
        digest[:LOOKUP_BYTES],
        digest,
        overlap,
    )
    assert changed is not None  # noqa: S101 - the caller has it locked
    return changed


async def environment_keys(conn: Connection) -> list[Row]:
    """Return the usable keys that came from CERTCTL_API_KEYS_NAMED, locked against a second replica's start."""
    return await conn.fetch(
        "SELECT id, name, role, digest FROM api_keys WHERE source = 'environment' AND disabled_at IS NULL FOR UPDATE"
    )


async def disable_keys(conn: Connection, ids: Sequence[str]) -> None:
    """Make keys unusable; their rows stay, since the audit trail names them."""
    await conn.execute(
        "UPDATE api_keys SET disabled_at = now(), revision = revision + 1, updated_at = now() WHERE id = ANY($1)", ids
    )


async def any_key(conn: Connection) -> bool:
    """Say whether any usable key exists."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM api_keys WHERE disabled_at IS NULL)"))


async def touch_keys(conn: Connection, used: Mapping[str, float]) -> None:
    """Store how many seconds ago keys were used; one that was stored a moment ago is left alone."""
    await conn.execute(
        """
        UPDATE api_keys SET last_used_at = now() - uses.age
        FROM (
          SELECT id, age_s * interval '1 second' AS age FROM unnest($1::text[], $2::float8[]) AS uses (id, age_s)
        ) AS uses
        WHERE api_keys.id = uses.id
          AND (last_used_at IS NULL OR last_used_at < now() - uses.age - interval '15 seconds')
        """,
        list(used),
        list(used.values()),
    )
