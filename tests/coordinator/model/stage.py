"""The real side: two coordinators on one PostgreSQL, three agents, one clock that stands still until it is moved.

The clock is the database's too: a schema earlier in the search path has its own ``now()``, so the statements of the
product run unchanged, and leases end exactly when the machine says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from coordinator.database import driver
from core import crash
from core.keys import KeyAlgorithm, PrivateKey, generate
from tests.coordinator.world import FakeAgent, World, open_world, variables
from tests.postgres import PostgresServer

AGENTS = 3
_CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.present (at timestamptz NOT NULL);
INSERT INTO clock.present VALUES (date_trunc('second', now()));
CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM clock.present';
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM clock.present';
DO $$
DECLARE place record;
BEGIN
  FOR place IN SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND column_default = 'now()'
  LOOP
    EXECUTE format('ALTER TABLE public.%I ALTER %I SET DEFAULT clock.now()', place.table_name, place.column_name);
  END LOOP;
  EXECUTE format('ALTER DATABASE %I SET search_path = clock, pg_catalog, public', current_database());
END $$
"""
_TABLES = "issuance_requests", "jobs", "bindings", "holders", "certificate_versions", "targets", "certificates"
_OBSERVED = {
    "jobs": """
        SELECT jobs.id, kind, jobs.certificate_id AS certificate, jobs.agent_id AS agent,
          coalesce(target_id, '') AS target, coalesce(made.job_id, '') AS version, jobs.state, attempt,
          jobs.not_before, lease_epoch AS epoch, lease_owner AS owner, lease_until
        FROM jobs LEFT JOIN issuance_requests AS made ON made.version_id = jobs.version_id
        """,
    "holders": """
        SELECT holders.certificate_id AS certificate, agent_id AS agent, coalesce(made.job_id, '') AS version, renew_at,
          failures
        FROM holders LEFT JOIN issuance_requests AS made USING (version_id)
        """,
    "bindings": """
        SELECT bindings.certificate_id AS certificate, target_id AS target, coalesce(wanted.job_id, '') AS wanted,
          coalesce(served.job_id, '') AS served, failures, reason
        FROM bindings LEFT JOIN issuance_requests AS wanted ON wanted.version_id = desired_version_id
        LEFT JOIN issuance_requests AS served ON served.version_id = served_version_id
        """,
    "requests": """
        SELECT job_id, issuance_requests.spki_sha256 AS spki, state, generation, holder
        FROM issuance_requests LEFT JOIN certificate_versions ON certificate_versions.id = version_id
        """,
    "versions": """
        SELECT id, serial, (
          SELECT array_agg(serial) FROM issuance_requests WHERE version_id = v.id) AS chosen
        FROM certificate_versions AS v
        """,
}

Rows = list[dict[str, Any]]


class Died(Exception):
    """The coordinator's end, in place of SIGKILL: no answer goes out, and an open transaction is rolled back."""


@contextlib.contextmanager
def dying(point: str) -> Iterator[None]:
    """Let the coordinator die at the first passing of a crash point; at none for an empty name."""

    def kill(_pid: int, _signal: int) -> None:
        raise Died(point)

    process = SimpleNamespace(getpid=os.getpid, kill=kill)
    with patch.multiple(crash, _name=point, _left=1, os=process):
        yield


class Stage:
    """Two coordinators and their agents; ``keys`` are made once, since a key is a key."""

    def __init__(self, runner: asyncio.Runner, worlds: list[World], agents: list[FakeAgent]) -> None:
        self.runner = runner
        self.worlds = worlds
        self.agents = agents
        self.started = self.now
        self.keys: list[PrivateKey] = [generate(KeyAlgorithm.ECDSA_P256) for _ in range(250)]

    @property
    def now(self) -> datetime:
        return self.worlds[0].clock.now()

    async def advance(self, step: timedelta) -> None:
        """Move every clock. Sessions move along: how they end is no subject here."""
        for world in self.worlds:
            world.clock.advance(step)
        await self.worlds[0].execute("UPDATE clock.present SET at = at + $1", step)
        await self.worlds[0].execute("UPDATE agent_sessions SET expires_at = expires_at + $1", step)

    async def clean(self) -> None:
        """Begin anew: the agents stay, all that they and others did goes."""
        for table in _TABLES:
            await self.worlds[0].execute(f"DELETE FROM {table}")
        await self.advance(self.started - self.now)

    async def observe(self) -> dict[str, Rows]:
        """Return what the book predicts, as it is."""
        async with self.worlds[0].ctx.db.connection() as conn:
            return {name: [dict(row.items()) for row in await conn.fetch(sql)] for name, sql in _OBSERVED.items()}

    async def everything(self) -> list[str]:
        """Return every row that a refused call might have changed; of the audit log, which only grows, the length."""
        found = []
        async with self.worlds[0].ctx.db.connection() as conn:
            for table in (*_TABLES, "issuer_certificates"):
                rows = await conn.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} AS t")
                found += sorted(f"{table} {row['row']}" for row in rows)
            found.append(f"audit_events {await conn.fetchval('SELECT count(*) FROM audit_events')}")
        return found


@contextlib.contextmanager
def open_stage(server: PostgresServer, folder: Path) -> Iterator[Stage]:
    """Open both coordinators on a new database, and enroll the agents."""
    with server.fresh_database() as dsn, asyncio.Runner() as runner:
        server.run(_CLOCK, dsn.partition("?")[0].rpartition("/")[2])
        both = _two_coordinators(dsn, folder)
        worlds = runner.run(both.__aenter__())
        try:
            agents = [runner.run(worlds[0].agent(f"host-{number}")) for number in range(AGENTS)]
            yield Stage(runner, worlds, agents)
        finally:
            runner.run(both.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def _two_coordinators(dsn: str, folder: Path) -> AsyncIterator[list[World]]:
    connection = await driver.connect(dsn, {})
    started = await connection.fetchval("SELECT at FROM clock.present")
    await connection.close()
    async with (
        open_world(variables(dsn, folder / "one"), started) as one,
        open_world(variables(dsn, folder / "two"), started) as two,
    ):
        yield [one, two]
