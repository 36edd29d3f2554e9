"""SQL of what operators see and do of the ACME server: keys of external accounts, accounts, orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.database import driver
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing
from coordinator.enrollment.acme.store import AUTHORIZATION, ORDER, ORDERS
from core.errors import InvalidInput

_EAB_COLUMNS = """id, name, profile_ids, allowed_names, wildcards, reusable, owner_id, team_id, environment, created_by,
  expires_at, disabled_at, revision, created_at, updated_at"""
_BY_KEY = "SELECT id FROM acme_eab_keys WHERE {}"
EAB_KEYS = Listing(
    _EAB_COLUMNS,
    "acme_eab_keys",
    "eab",
    filters={
        **{name: f"{name} = {{}}" for name in ("name", "owner_id", "team_id")},
        "usable": "(disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now())) = {}",
    },
    team="team_id",
    environment="environment",
)
ACCOUNTS = Listing(
    "id, profile_id, thumbprint, contact, status, eab_key_id, terms_agreed_at, created_at, updated_at",
    "acme_accounts",
    "aca",
    filters={name: f"{name} = {{}}" for name in ("profile_id", "status", "eab_key_id")},
    team="team_id",
    environment="environment",
    within=f"eab_key_id IN ({_BY_KEY})",
)
ORDERS_LISTING = Listing(
    "id, account_id, profile_id, identifiers, replaces, certificate_id, job_id, expires_at, created_at",
    "acme_orders",
    "aco",
    filters={name: f"{name} = {{}}" for name in ("account_id", "profile_id", "certificate_id")},
    team="team_id",
    environment="environment",
    within=f"account_id IN (SELECT id FROM acme_accounts WHERE eab_key_id IN ({_BY_KEY}))",
)


async def insert_eab_key(conn: Connection, values: Mapping[str, Any]) -> Row:
    """Store a key of an external account; ``InvalidInput`` for an owner or a team that is not there."""
    names = list(values)
    places = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    try:
        row = await conn.fetchrow(
            f"INSERT INTO acme_eab_keys ({', '.join(names)}) VALUES ({places}) RETURNING {_EAB_COLUMNS}",
            *values.values(),
        )
    except driver.ForeignKeyViolation as error:
        field = "team_id" if "team" in str(getattr(error, "constraint_name", "")) else "owner_id"
        raise InvalidInput.of(field, f"there is no {values[field]}") from error
    assert row is not None  # noqa: S101 - an insert returns its row
    return row


async def lock_eab_key(conn: Connection, key_id: str) -> Row | None:
    """Return a key of an external account, locked."""
    return await conn.fetchrow(f"SELECT {_EAB_COLUMNS} FROM acme_eab_keys WHERE id = $1 FOR UPDATE", key_id)


async def disable_eab_key(conn: Connection, key_id: str) -> None:
    """Switch a key of an external account off."""
    await conn.execute(
        "UPDATE acme_eab_keys SET disabled_at = now(), revision = revision + 1, updated_at = now() WHERE id = $1",
        key_id,
    )


async def profiles_among(conn: Connection, profile_ids: Sequence[str]) -> set[str]:
    """Return those of these profiles that there are."""
    rows = await conn.fetch("SELECT id FROM profiles WHERE id = ANY($1)", list(profile_ids))
    return {row["id"] for row in rows}


async def end_account(conn: Connection, account_id: str) -> Row | None:
    """Revoke a valid account, which nobody can undo; return it."""
    return await conn.fetchrow(
        f"""
        UPDATE acme_accounts SET status = 'revoked', updated_at = now() WHERE id = $1 AND status = 'valid'
        RETURNING {ACCOUNTS.columns}
        """,
        account_id,
    )


async def order(conn: Connection, order_id: str) -> Row | None:
    """Return an order with all that its status depends on."""
    return await conn.fetchrow(f"SELECT {ORDER} FROM {ORDERS} WHERE orders.id = $1", order_id)


async def authorizations(conn: Connection, ids: Sequence[str]) -> list[Row]:
    """Return authorizations, with challenges and evidence."""
    return await conn.fetch(
        f"SELECT {AUTHORIZATION} FROM acme_authorizations WHERE id = ANY($1) ORDER BY id", list(ids)
    )
