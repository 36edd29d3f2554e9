"""SQL of people and their sessions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Sort

LOOKUP_BYTES = 8
_SOURCE = "sessions JOIN people ON people.id = sessions.person_id"
_COLUMNS = (
    "sessions.id, sessions.person_id, people.name, people.email, sessions.role, sessions.teams, "
    "sessions.environments, sessions.user_agent, sessions.last_seen_at, sessions.expires_at, sessions.created_at"
)
LISTING = Listing(
    _COLUMNS,
    _SOURCE,
    "ses",
    filters={
        "person_id": "sessions.person_id = {}",
        "role": "sessions.role = {}",
        "teams_within": "sessions.teams <@ {}::text[]",
        "environments_within": "sessions.environments <@ {}::text[]",
    },
    sorts={
        "created_at": Sort("sessions.created_at", "timestamptz"),
        "last_seen_at": Sort("sessions.last_seen_at", "timestamptz"),
    },
    id="sessions.id",
    always="sessions.expires_at > now()",
)


async def upsert_person(tx: Connection, person_id: str, person: Mapping[str, Any]) -> str:
    """Store what the provider says of somebody; return the id, which stays the same for one issuer and subject."""
    return str(
        await tx.fetchval(
            """
            INSERT INTO people (id, issuer, subject, name, email, role, teams) VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (issuer, subject) DO UPDATE SET name = excluded.name, email = excluded.email,
              role = excluded.role, teams = excluded.teams, last_login_at = now()
            RETURNING id
            """,
            person_id,
            *(person[name] for name in ("issuer", "subject", "name", "email", "role", "teams")),
        )
    )


async def insert(tx: Connection, session: Mapping[str, Any], lifetime: timedelta) -> None:
    """Store a session's digest and what it may do."""
    await tx.execute(
        """
        INSERT INTO sessions (id, person_id, lookup, digest, role, teams, sealed_id_token, user_agent, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + $9)
        """,
        session["id"],
        session["person_id"],
        session["digest"][:LOOKUP_BYTES],
        session["digest"],
        session["role"],
        session["teams"],
        session["sealed_id_token"],
        session["user_agent"],
        lifetime,
    )


async def candidates(conn: Connection, digest: bytes, idle: timedelta) -> list[Row]:
    """Return the sessions in force whose digest begins like ``digest``; the caller compares the whole."""
    return await conn.fetch(
        f"""
        SELECT {_COLUMNS}, sessions.digest FROM {_SOURCE}
        WHERE sessions.lookup = $1 AND sessions.expires_at > now() AND sessions.last_seen_at > now() - $2::interval
        """,
        digest[:LOOKUP_BYTES],
        idle,
    )


async def get(conn: Connection, session_id: str) -> Row | None:
    """Return a session."""
    return await conn.fetchrow(f"SELECT {_COLUMNS} FROM {_SOURCE} WHERE sessions.id = $1", session_id)


async def remove(tx: Connection, session_id: str) -> Row | None:
    """End a session; return whose it was, the issuer, and its sealed ID token; None when it has ended already."""
    return await tx.fetchrow(
        """
        DELETE FROM sessions USING people WHERE people.id = sessions.person_id AND sessions.id = $1
        RETURNING sessions.id, sessions.person_id, people.issuer, sessions.sealed_id_token
        """,
        session_id,
    )


async def touch(conn: Connection, seen: Mapping[str, float]) -> None:
    """Store how many seconds ago sessions were used."""
    await conn.execute(
        """
        UPDATE sessions SET last_seen_at = now() - seen.age
        FROM (
          SELECT id, age_s * interval '1 second' AS age FROM unnest($1::text[], $2::float8[]) AS seen (id, age_s)
        ) AS seen
        WHERE sessions.id = seen.id AND last_seen_at < now() - seen.age - interval '15 seconds'
        """,
        list(seen),
        list(seen.values()),
    )


async def purge(conn: Connection, idle: timedelta) -> None:
    """Forget what has ended."""
    await conn.execute("DELETE FROM sessions WHERE expires_at < now() OR last_seen_at < now() - $1::interval", idle)
