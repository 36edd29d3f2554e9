"""SQL of the ACME server. What most requests need comes in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row

_ACCOUNT = """accounts.id, accounts.profile_id, accounts.thumbprint, accounts.jwk, accounts.contact, accounts.status,
  accounts.eab_key_id, accounts.terms_agreed_at, accounts.created_at"""
ORDER = """orders.id, orders.account_id, orders.profile_id, orders.identifiers, orders.authorization_ids,
  orders.not_before, orders.not_after, orders.replaces, orders.error, orders.certificate_id, orders.job_id,
  orders.expires_at, orders.created_at, orders.expires_at <= now() AS run_out,
  jobs.state AS job_state, jobs.failure, requests.version_id,
  (SELECT array_agg(CASE WHEN a.expires_at <= now() AND a.status IN ('pending', 'valid') THEN 'expired'
                         ELSE a.status END)
   FROM acme_authorizations AS a WHERE a.id = ANY (orders.authorization_ids)) AS authorizations"""
ORDERS = """acme_orders AS orders LEFT JOIN jobs ON jobs.id = orders.job_id
  LEFT JOIN issuance_requests AS requests ON requests.job_id = orders.job_id"""
AUTHORIZATION = """id, account_id, kind, value, wildcard, mode, status, challenges, expires_at, created_at,
  expires_at <= now() AS run_out"""

AUTHORIZATION_OF = f"SELECT {AUTHORIZATION} FROM acme_authorizations WHERE id = $1 AND account_id = $2"
"""An authorization of an account."""
ORDER_OF = f"SELECT {ORDER} FROM {ORDERS} WHERE orders.id = $1 AND orders.account_id = $2"
"""An order of an account with all that its status depends on."""
CHAINS_OF = """
  SELECT versions.id, versions.der, keys.chain AS whole,
    array(SELECT issuers.der FROM unnest(versions.chain) WITH ORDINALITY AS link(fingerprint, place)
          JOIN issuer_certificates AS issuers USING (fingerprint) ORDER BY place) AS served
  FROM certificate_versions AS versions JOIN acme_certificates USING (certificate_id)
  JOIN issuer_keys AS keys ON keys.issuer_id = versions.issuer_id AND keys.ski = versions.issuer_ski
  WHERE versions.id = $1 AND account_id = $2"""
"""An account's certificate: the leaf, the issuers that are served with it, and these up to the root."""
NOTHING = "SELECT $1::text AS nothing", ""


async def use_nonce(conn: Connection, nonce: bytes, keep: timedelta) -> bool:
    """Use a nonce up; say whether it was unused."""
    return bool(
        await conn.fetchval(
            "INSERT INTO acme_nonces VALUES ($1, now() + $2::interval) ON CONFLICT DO NOTHING RETURNING true",
            nonce,
            keep,
        )
    )


async def enter(
    conn: Connection, nonce: bytes, keep: timedelta, profile_id: str, account_id: str, about: tuple[str, str]
) -> Row:
    """Use a nonce up; return ``fresh``, ``account`` and ``profile``, null where there is none, and what it is about.

    That is ``NOTHING``, or one of the statements ``…_OF`` and its first argument: its columns, null for no row.
    """
    find, what = about
    row = await conn.fetchrow(
        f"""
        WITH used AS (
          INSERT INTO acme_nonces VALUES ($3, now() + $4::interval) ON CONFLICT DO NOTHING RETURNING true AS fresh)
        SELECT (SELECT fresh FROM used) AS fresh, to_jsonb(account) AS account, to_jsonb(profiles) AS profile, about.*
        FROM (SELECT) AS one
        LEFT JOIN (
          SELECT {_ACCOUNT}, keys.allowed_names, keys.wildcards,
            keys.disabled_at IS NOT NULL OR keys.expires_at <= now() AS eab_ended
          FROM acme_accounts AS accounts LEFT JOIN acme_eab_keys AS keys ON keys.id = accounts.eab_key_id
          WHERE accounts.id = $2 AND accounts.profile_id = $5) AS account ON true
        LEFT JOIN profiles ON profiles.id = $5
        LEFT JOIN ({find}) AS about ON true
        """,
        what,
        account_id,
        nonce,
        keep,
        profile_id,
    )
    assert row is not None  # noqa: S101 - its FROM has one row
    return row


async def account_by_key(conn: Connection, profile_id: str, thumbprint: str) -> Row | None:
    """Return the account of a key."""
    return await conn.fetchrow(
        f"SELECT {_ACCOUNT} FROM acme_accounts AS accounts WHERE profile_id = $1 AND thumbprint = $2",
        profile_id,
        thumbprint,
    )


async def insert_account(conn: Connection, account: Mapping[str, Any]) -> bool:
    """Store an account; say whether its key was new to the profile."""
    return bool(
        await conn.fetchval(
            """
            INSERT INTO acme_accounts (id, profile_id, thumbprint, jwk, contact, eab_key_id, terms_agreed_at)
            VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $7 THEN now() END) ON CONFLICT DO NOTHING RETURNING true
            """,
            *account.values(),
        )
    )


async def update_account(conn: Connection, account_id: str, contact: Sequence[str], status: str) -> None:
    """Give an account other contacts or another status."""
    await conn.execute(
        "UPDATE acme_accounts SET contact = $2, status = $3, updated_at = now() WHERE id = $1",
        account_id,
        list(contact),
        status,
    )


async def change_key(conn: Connection, account_id: str, old: str, new: str, jwk: Mapping[str, Any]) -> bool:
    """Give an account another key; say whether it had the old one still. A key that is taken violates a constraint."""
    return bool(
        await conn.fetchval(
            """
            UPDATE acme_accounts SET thumbprint = $3, jwk = $4, updated_at = now()
            WHERE id = $1 AND thumbprint = $2 AND status = 'valid' RETURNING true
            """,
            account_id,
            old,
            new,
            jwk,
        )
    )


async def eab_key(conn: Connection, key_id: str) -> Row | None:
    """Return a usable key of an external account, locked, with whether an account was bound with it."""
    return await conn.fetchrow(
        """
        SELECT id, sealed_key, profile_ids, reusable, owner_id, team_id, environment,
          EXISTS (SELECT FROM acme_accounts WHERE eab_key_id = keys.id) AS bound
        FROM acme_eab_keys AS keys
        WHERE id = $1 AND disabled_at IS NULL AND (expires_at IS NULL OR expires_at > now()) FOR UPDATE
        """,
        key_id,
    )


_AUTHORIZED = """
  wanted AS (
    SELECT new.*, found.id AS found_id
    FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (id text, kind text, value text, wildcard boolean, mode text,
      status text, challenges jsonb)) WITH ORDINALITY
      AS new (id, kind, value, wildcard, mode, status, challenges, place)
    LEFT JOIN LATERAL (
      SELECT a.id FROM acme_authorizations AS a
      WHERE a.account_id = $1 AND a.kind = new.kind AND a.value = new.value AND a.wildcard = new.wildcard
        AND a.mode = new.mode AND a.status = 'valid' AND a.expires_at > now() + $4::interval
        AND NOT a.challenges @> '[{"type": "dns-persist-01", "status": "valid"}]'
      ORDER BY a.expires_at DESC LIMIT 1) AS found ON true
  ), stored AS (
    INSERT INTO acme_authorizations
      (id, account_id, kind, value, wildcard, mode, status, challenges, expires_at)
    SELECT id, $1, kind, value, wildcard, mode, status, challenges, now() + $3::interval
    FROM wanted WHERE found_id IS NULL
  )"""
"""``wanted`` with the authorization that there is for each: of the account, valid and lasting a while.

Where there is none, the wanted row itself is stored. One by dns-persist-01 is not taken again: its record stays, so
that each order looks at it anew.
"""


async def take_authorization(
    conn: Connection, account_id: str, wanted: Mapping[str, Any], ttl: timedelta, lasting: timedelta
) -> Row:
    """Return the id of the authorization that there is, or else that is stored now, and whether it ``is_new``."""
    row = await conn.fetchrow(
        f"WITH {_AUTHORIZED} SELECT coalesce(found_id, id) AS id, found_id IS NULL AS is_new FROM wanted",
        account_id,
        [wanted],
        ttl,
        lasting,
    )
    assert row is not None  # noqa: S101 - one is wanted
    return row


async def authorization(conn: Connection, authorization_id: str, account_id: str, *, lock: bool = False) -> Row | None:
    """Return an authorization of an account."""
    tail = "FOR UPDATE" if lock else ""
    return await conn.fetchrow(f"{AUTHORIZATION_OF} {tail}", authorization_id, account_id)


async def set_authorization(
    conn: Connection, authorization_id: str, status: str, challenges: Sequence[Mapping[str, Any]]
) -> None:
    """Store how an authorization and its challenges stand."""
    await conn.execute(
        """
        UPDATE acme_authorizations SET status = $2, challenges = $3::jsonb,
          answered_at = CASE WHEN $3::jsonb @> '[{"status": "processing"}]' THEN now() END
        WHERE id = $1
        """,
        authorization_id,
        status,
        list(challenges),
    )


async def insert_order(
    conn: Connection,
    order: Mapping[str, Any],
    ttl: timedelta,
    wanted: Sequence[Mapping[str, Any]],
    authorizations: tuple[timedelta, timedelta],
) -> Row:
    """Store an order with an authorization for each that is wanted, in their order, as ``take_authorization`` does.

    Return it with all that its status depends on, and as ``new`` the values that had no authorization.
    """
    row = await conn.fetchrow(
        f"""
        WITH {_AUTHORIZED}, orders AS (
          INSERT INTO acme_orders (id, account_id, profile_id, identifiers, not_before, not_after, replaces, expires_at,
            authorization_ids)
          SELECT $5, $1, $6, $7, $8, $9, $10, now() + $11::interval, array_agg(coalesce(found_id, id) ORDER BY place)
          FROM wanted RETURNING *)
        SELECT orders.*, false AS run_out,
          array(SELECT CASE WHEN found_id IS NULL THEN status ELSE 'valid' END FROM wanted ORDER BY place)
            AS authorizations,
          array(SELECT value FROM wanted WHERE found_id IS NULL) AS new
        FROM orders
        """,
        order["account_id"],
        list(wanted),
        *authorizations,
        *(order[name] for name in ("id", "profile_id", "identifiers", "not_before", "not_after", "replaces")),
        ttl,
    )
    assert row is not None  # noqa: S101 - it was inserted
    return row


async def open_orders(conn: Connection, account_id: str) -> int:
    """Return how many orders of an account have not come to an end."""
    count: int = await conn.fetchval(
        """
        SELECT count(*) FROM acme_orders AS orders
        WHERE account_id = $1 AND job_id IS NULL AND error IS NULL AND expires_at > now()
          AND NOT EXISTS (SELECT FROM acme_authorizations AS a
                          WHERE a.id = ANY (orders.authorization_ids) AND a.status NOT IN ('pending', 'valid'))
        """,
        account_id,
    )
    return count


async def order(conn: Connection, order_id: str, account_id: str, *, lock: bool = False) -> Row | None:
    """Return an order of an account with all that its status depends on."""
    tail = "FOR UPDATE OF orders" if lock else ""
    return await conn.fetchrow(f"{ORDER_OF} {tail}", order_id, account_id)


async def order_ids(conn: Connection, account_id: str, after: str, limit: int) -> list[str]:
    """Return an account's newest orders, those behind ``after``."""
    rows = await conn.fetch(
        """
        SELECT id FROM acme_orders WHERE account_id = $1
          AND ($2 = '' OR (created_at, id) < (SELECT created_at, id FROM acme_orders WHERE id = $2 AND account_id = $1))
        ORDER BY created_at DESC, id DESC LIMIT $3
        """,
        account_id,
        after,
        limit,
    )
    return [row["id"] for row in rows]


def finalize_order(
    conn: Transaction, order_id: str, certificate_id: str, job_id: str, account_id: str, names_sha256: str
) -> None:
    """Have noted with what is gathered what an order has led to, and whose the certificate is.

    A second certificate of the same names is a violation.
    """
    conn.later(
        "UPDATE acme_orders SET certificate_id = $2, job_id = $3 WHERE id = $1", order_id, certificate_id, job_id
    )
    conn.later(
        """
        INSERT INTO acme_certificates (account_id, names_sha256, certificate_id) VALUES ($1, $2, $3)
        ON CONFLICT (certificate_id) DO NOTHING
        """,
        account_id,
        names_sha256,
        certificate_id,
    )


async def replacement_exists(conn: Connection, certificate_id: str) -> bool:
    """Say whether an order that has not failed replaces a certificate already."""
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT FROM acme_orders WHERE replaces = $1 AND error IS NULL)", certificate_id
        )
    )


async def version_by_fingerprint(conn: Connection, fingerprint: str) -> Row | None:
    """Return a version that came out of this server, by the fingerprint of its certificate."""
    return await conn.fetchrow(
        """
        SELECT versions.id, versions.certificate_id, revoked_at, not_after, account_id
        FROM certificate_versions AS versions JOIN acme_certificates USING (certificate_id) WHERE fingerprint = $1
        """,
        fingerprint,
    )


async def version_by_id(conn: Connection, key_id: str, serial: str) -> Row | None:
    """Return a version by its authority's key and its serial number (RFC 9773 section 4.1)."""
    return await conn.fetchrow(
        """
        SELECT versions.id, versions.certificate_id, not_before, versions.not_after, revoked_at, replace_at,
          versions.created_at, account_id,
          array(SELECT each ->> 'value' FROM certificates, jsonb_array_elements(names) AS each
                WHERE certificates.id = versions.certificate_id) AS names
        FROM issuer_keys JOIN certificate_versions AS versions USING (issuer_id)
        LEFT JOIN acme_certificates USING (certificate_id)
        WHERE ski = $1 AND issuer_ski = $1 AND serial = $2
        """,
        key_id,
        serial,
    )


async def validated_names(conn: Connection, account_id: str) -> set[tuple[str, str, bool]]:
    """Return the (kind, value, wildcard) that an account is authorized for now."""
    rows = await conn.fetch(
        """
        SELECT DISTINCT kind, value, wildcard FROM acme_authorizations
        WHERE account_id = $1 AND status = 'valid' AND expires_at > now()
        """,
        account_id,
    )
    return {(row["kind"], row["value"], row["wildcard"]) for row in rows}


async def certificate_of(conn: Connection, account_id: str, names_sha256: str) -> Row | None:
    """Return the certificate of an account for a set of names, null where there is none, and whose it is or would be.

    That is said by the external account that the account was bound with; ``owner_id`` is null where there is none.
    """
    return await conn.fetchrow(
        """
        SELECT certificate_id, owner_id, team_id, environment, created_by
        FROM acme_accounts AS accounts LEFT JOIN acme_eab_keys AS keys ON keys.id = eab_key_id
        LEFT JOIN acme_certificates AS found ON found.account_id = accounts.id AND names_sha256 = $2
        WHERE accounts.id = $1
        """,
        account_id,
        names_sha256,
    )


async def left_processing(conn: Connection, limit: int) -> list[Row]:
    """Return authorizations with a challenge that nobody has finished looking at within two minutes."""
    return await conn.fetch(
        f"""
        SELECT {AUTHORIZATION}, profile_id, thumbprint FROM (
          SELECT * FROM acme_authorizations
          WHERE status = 'pending' AND answered_at < now() - interval '2 minutes' AND expires_at > now()
          ORDER BY answered_at LIMIT $1) AS waiting
        JOIN (SELECT id AS account_id, profile_id, thumbprint FROM acme_accounts) AS accounts USING (account_id)
        """,
        limit,
    )


async def collect(conn: Connection, keep: timedelta) -> int:
    """Forget nonces that ran out, and orders and authorizations that ended a while ago; return how many rows."""
    nonces = await conn.execute("DELETE FROM acme_nonces WHERE expires_at < now()")
    orders = await conn.execute(
        "DELETE FROM acme_orders WHERE expires_at < now() - $1::interval AND job_id IS NULL", keep
    )
    # An order of which one is missing counts as one of an authorization that has expired.
    return (
        nonces
        + orders
        + await conn.execute("DELETE FROM acme_authorizations WHERE expires_at < now() - $1::interval", keep)
    )
