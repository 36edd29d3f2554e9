"""What is there to be read: rows, files and lines of logs, as plain as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives import serialization

Row: TypeAlias = dict[str, Any]
TABLES = (
    "agents",
    "audit_events",
    "bindings",
    "certificates",
    "certificate_versions",
    "holders",
    "issuance_requests",
    "jobs",
    "targets",
)


@dataclass(frozen=True)
class Key:
    """A private key on an agent's disk. ``spki_sha256`` is computed from the key, ``name`` is what its file claims."""

    path: Path
    certificate_id: str
    name: str
    spki_sha256: str


@dataclass(frozen=True)
class Disk:
    """One agent's disk: its keys, its unanswered requests by job, and what no finished work leaves behind."""

    state: Path
    keys: tuple[Key, ...]
    requests: dict[str, Path]
    leftovers: tuple[Path, ...]


@dataclass
class World:
    """Everything, read once. ``tables`` holds rows by table; ``signatures`` the lines ``certificate_signed``.

    ``at`` is the moment of which it tells: when the last coordinator was stopped.
    """

    tables: dict[str, list[Row]]
    disks: dict[str, Disk] = field(default_factory=dict)
    signatures: list[Row] = field(default_factory=list)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table."""
        return self.tables[table]

    def by_id(self, table: str) -> dict[str, Row]:
        """Return the rows of a table by their id."""
        return {row["id"]: row for row in self.tables[table]}


def read(database_url: str, states: Iterable[Path], logs: Iterable[Path]) -> World:
    """Read the database in one snapshot, the agents' state folders, and the coordinators' logs (JSON lines)."""
    world = World(asyncio.run(_tables(database_url)))
    for state in states:
        agent_id = state / "identity" / "agent-id"
        if agent_id.exists():
            world.disks[agent_id.read_text().strip()] = _disk(state)
    world.signatures = [line for log in logs for line in _signatures(log)]
    _add_live_leftovers(world)
    return world


async def _tables(url: str) -> dict[str, list[Row]]:
    connection = await asyncpg.connect(url)
    try:
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return {
                table: [dict(row) for row in await connection.fetch(f"SELECT * FROM {table}")]  # noqa: S608 - constants
                for table in TABLES
            }
    finally:
        await connection.close()


def _disk(state: Path) -> Disk:
    keys, requests = [], {}
    for path in sorted(state.glob("keys/*/*")):
        if path.suffix == ".request":
            requests[str(json.loads(path.read_bytes())["job_id"])] = path
        elif not path.suffix and not path.name.startswith("."):
            keys.append(Key(path, path.parent.name, path.name, spki_of_key(path.read_bytes())))
    leftovers = [*state.glob("journal/*"), *state.glob("scratch/*"), *state.glob("keys/*/.*")]
    return Disk(state, tuple(keys), requests, tuple(leftovers))


def _add_live_leftovers(world: World) -> None:
    """Add temporary names beside the files of each target."""
    for target in world.rows("targets"):
        disk = world.disks.get(target["agent_id"])
        if disk is not None:
            folder = Path(target["config"]["cert_path"]).parent
            store = folder / ".certctl"
            found = [path for path in folder.glob(".*") if path != store]
            found += [path for path in (store / target["id"]).rglob(".*") if path not in found]
            new = tuple(path for path in found if path not in disk.leftovers)
            world.disks[target["agent_id"]] = Disk(disk.state, disk.keys, disk.requests, (*disk.leftovers, *new))


def _signatures(log: Path) -> list[Row]:
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if "certificate_signed" in line:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # the process was killed while it wrote
    return [line for line in found if line.get("event") == "certificate_signed"]


def spki_of_key(pem: bytes) -> str:
    """Return the SHA-256 of a private key's SubjectPublicKeyInfo, or nothing for what is no key."""
    try:
        public = serialization.load_pem_private_key(pem, None).public_key()
    except (ValueError, TypeError):
        return ""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


def leaf(pem: bytes) -> tuple[str, str]:
    """Return fingerprint and SPKI digest of the first certificate in a PEM file; nothing for what is none."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return "", ""
    der = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(), sha256(der).hexdigest()
