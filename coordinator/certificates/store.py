"""SQL of certificates, their versions and what happened to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.searching import SearchedListing
from coordinator.database.table import Table

TABLE = Table(
    "certificates",
    (
        "name",
        "common_name",
        "names",
        "profile_id",
        "issuer_id",
        "renewal_policy_id",
        "owner_id",
        "team_id",
        "environment",
        "tags",
        "key_algorithm",
        "lifetime_s",
        "agent_id",
        "archived_at",
        "source",
    ),
    lock="FOR NO KEY UPDATE",  # they are archived, never removed, so jobs that name one may come in meanwhile
)
_EQUAL = (
    "name",
    "common_name",
    "standing",
    "service",
    "environment",
    "owner_id",
    "team_id",
    "issuer_id",
    "profile_id",
    "renewal_policy_id",
    "archived",
)
# Each with its holders and bindings as JSON: one statement for any number of certificates, and one for a single one.
_SHOWN = f"""{TABLE.reads},
  (SELECT json_agg(held ORDER BY agent_id) FROM (
    SELECT holders.agent_id, holders.version_id, generation, serial, fingerprint, not_before, not_after,
      greatest(not_before, versions.created_at) AS issued_at, holders.renew_at, revoked_at, failures,
      failures > max_retries AS failing, reason
    FROM holders JOIN renewal_policies ON renewal_policies.id = certificates.renewal_policy_id
    LEFT JOIN certificate_versions AS versions ON versions.id = holders.version_id
    WHERE holders.certificate_id = certificates.id) AS held)::text AS holders,
  (SELECT json_agg(bound ORDER BY target_id) FROM (
    SELECT target_id, targets.name AS target_name, targets.agent_id, desired_version_id, served_version_id,
      served_at, drift, drift_since,
      failures, failures > max_retries AS failing, reason
    FROM bindings JOIN targets ON targets.id = bindings.target_id
    JOIN renewal_policies ON renewal_policies.id = certificates.renewal_policy_id
    WHERE bindings.certificate_id = certificates.id) AS bound)::text AS bindings,
  (SELECT json_build_object('thresholds_days', alert_thresholds_days, 'severity_map', alert_severity_map,
      'channels', alert_channels)
    FROM renewal_policies WHERE renewal_policies.id = certificates.renewal_policy_id)::text AS alert_rules,
  CASE WHEN source IN ('imported', 'acme') THEN (
    SELECT json_build_object('holder', holder, 'not_before', not_before, 'not_after', not_after,
      'revoked_at', revoked_at)
    FROM certificate_versions AS versions WHERE versions.certificate_id = certificates.id
      AND holder IN ('imported', 'client') ORDER BY created_at DESC, generation DESC LIMIT 1) END::text AS imported"""
LISTING = SearchedListing(
    _SHOWN,
    "certificates",
    "mc",
    filters={
        **{column: f"{column} = {{}}" for column in _EQUAL},
        "life_expired": "standing = 'issued' AND expires_at <= {}",
        "life_due": "standing = 'issued' AND expires_at > {0} AND renew_at <= {0}",
        "life_valid": "standing = 'issued' AND expires_at > {0} AND renew_at > {0}",
        "q": "search @@ {}::text::tsquery",
        "tag": "tags @> {}::jsonb",
        "agent_id": "id IN (SELECT certificate_id FROM holders WHERE agent_id = {})",
        "target_id": "id IN (SELECT certificate_id FROM bindings WHERE target_id = {})",
        "expires_before": "expires_at < {}",
        "expires_after": "expires_at >= {} AND expires_at < 'infinity'",
        "renews_before": "renew_at < {}",
        "created_before": "created_at < {}",
        "created_after": "created_at >= {}",
        "updated_before": "updated_at < {}",
        "updated_after": "updated_at >= {}",
    },
    sorts={
        "created_at": CREATED,
        "updated_at": Sort("updated_at", "timestamptz"),
        "name": Sort("name"),
        "common_name": Sort("common_name"),
        "environment": Sort("environment"),
        "expires_at": Sort("expires_at", "timestamptz"),  # what does not end comes last
        "renew_at": Sort("renew_at", "timestamptz"),
    },
    team="team_id",
    environment="environment",
    plain=frozenset({"archived"}),
)
VERSIONS = Listing(
    """id, certificate_id, generation, holder, issuer_id, serial, fingerprint, spki_sha256, key_algorithm, not_before,
      not_after, revoked_at, revocation_reason, created_at, der,
      array(SELECT issuers.der FROM unnest(chain) WITH ORDINALITY AS link(fingerprint, place)
            JOIN issuer_certificates AS issuers USING (fingerprint) ORDER BY place) AS issuers""",
    "certificate_versions",
    "cv",
    filters={"certificate_id": "certificate_id = {}"},
)
TIMELINE = Listing(
    "id, at, source, what, actor, job_id, target_id, details",
    """(
      SELECT 'te-' || lpad(id::text, 19, '0') AS id, at, 'audit' AS source, action AS what, actor,
        details ->> 'job_id' AS job_id, details ->> 'target_id' AS target_id, details, resource_id AS certificate_id
      FROM audit_events WHERE resource_type = 'certificate'
      UNION ALL
      SELECT 'te-' || jobs.id || '-' || lpad(place::text, 4, '0'), (step ->> 'at')::timestamptz, 'job', step ->> 'step',
        coalesce('agent:' || agent_id, 'client'), jobs.id, target_id,
        step - 'step' - 'at' || jsonb_build_object('kind', kind), certificate_id
      FROM jobs CROSS JOIN LATERAL jsonb_array_elements(timeline) WITH ORDINALITY AS steps (step, place)
    ) AS entries""",
    "te",
    filters={"certificate_id": "certificate_id = {}"},
    sorts={"at": Sort("at", "timestamptz")},
)


async def shown_all(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return certificates with their holders and bindings."""
    return await conn.fetch(f"SELECT {_SHOWN} FROM certificates WHERE id = ANY($1)", certificate_ids)


async def shown(conn: Connection, certificate_id: str) -> Row | None:
    """Return one certificate with its holders and bindings."""
    return await conn.fetchrow(f"SELECT {_SHOWN} FROM certificates WHERE id = $1", certificate_id)


async def locked(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return certificates, locked in the order of their ids."""
    return await conn.fetch(
        f"SELECT {TABLE.reads} FROM certificates WHERE id = ANY($1) ORDER BY id {TABLE.lock}", certificate_ids
    )


async def revoke(conn: Connection, certificate_id: str, now: datetime, reason: str) -> list[Row]:
    """Mark what was issued and has neither expired nor been revoked; return id and serial of each."""
    return await conn.fetch(
        """
        UPDATE certificate_versions SET revoked_at = $2, revocation_reason = $3
        WHERE certificate_id = $1 AND revoked_at IS NULL AND not_after > $2 RETURNING id, serial
        """,
        certificate_id,
        now,
        reason,
    )


async def revoke_version(conn: Connection, version_id: str, now: datetime, reason: str) -> str | None:
    """Mark one version that has not been revoked; return its serial number."""
    serial: str | None = await conn.fetchval(
        """
        UPDATE certificate_versions SET revoked_at = $2, revocation_reason = $3
        WHERE id = $1 AND revoked_at IS NULL RETURNING serial
        """,
        version_id,
        now,
        reason,
    )
    return serial


async def ask_for_replacement(conn: Connection, certificate_id: str, now: datetime) -> list[str]:
    """Note that what clients hold of a certificate should be replaced at once; return the versions."""
    rows = await conn.fetch(
        """
        UPDATE certificate_versions SET replace_at = $2
        WHERE certificate_id = $1 AND holder = 'client' AND revoked_at IS NULL AND not_after > $2 RETURNING id
        """,
        certificate_id,
        now,
    )
    return [row["id"] for row in rows]


async def newest_revocation(conn: Connection, certificate_id: str) -> Row | None:
    """Return when and why a version was revoked last."""
    return await conn.fetchrow(
        """
        SELECT revoked_at, revocation_reason FROM certificate_versions
        WHERE certificate_id = $1 AND revoked_at IS NOT NULL ORDER BY revoked_at DESC LIMIT 1
        """,
        certificate_id,
    )


async def owned(conn: Connection, owner_id: str | None, team_id: str | None) -> Row:
    """Say whether an owner and a team are there; one that is not asked for is."""
    row = await conn.fetchrow(
        """
        SELECT $1::text IS NULL OR EXISTS (SELECT FROM owners WHERE id = $1) AS owner,
          $2::text IS NULL OR EXISTS (SELECT FROM teams WHERE id = $2) AS team
        """,
        owner_id,
        team_id,
    )
    assert row is not None  # noqa: S101 - a select without a table has one row
    return row


async def with_fingerprints(conn: Connection, fingerprints: Sequence[str]) -> list[Row]:
    """Return those of some fingerprints that versions have, with their certificates."""
    return await conn.fetch(
        """
        SELECT fingerprint, certificate_id, team_id, environment
        FROM certificate_versions JOIN certificates ON certificates.id = certificate_id WHERE fingerprint = ANY($1)
        """,
        fingerprints,
    )


async def insert_foreign(conn: Connection, version: Mapping[str, object]) -> None:
    """Store the only version of a certificate that was issued elsewhere."""
    await conn.execute(
        """
        INSERT INTO certificate_versions (id, certificate_id, generation, holder, issuer_ski, serial, fingerprint,
          spki_sha256, key_algorithm, not_before, not_after, der, chain)
        VALUES ($1, $2, 1, $3, '', $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        *version.values(),
    )


async def stand_anew(conn: Connection, certificate_ids: Sequence[str]) -> None:
    """Say in the rows of certificates how they stand, where no trigger does."""
    await conn.execute("SELECT stand_anew($1)", certificate_ids)


async def newest_version(conn: Connection, certificate_id: str) -> str | None:
    """Return the newest version of a certificate, one that was revoked only when there is no other."""
    version_id: str | None = await conn.fetchval(
        """
        SELECT id FROM certificate_versions WHERE certificate_id = $1
        ORDER BY revoked_at IS NOT NULL, created_at DESC, id DESC LIMIT 1
        """,
        certificate_id,
    )
    return version_id


async def newest_versions(conn: Connection, certificate_ids: Sequence[str]) -> list[Row]:
    """Return the newest version of each certificate that has one, in the given order."""
    return await conn.fetch(
        """
        SELECT versions.certificate_id, versions.der,
          array(SELECT issuers.der FROM unnest(versions.chain) WITH ORDINALITY AS link(fingerprint, place)
                JOIN issuer_certificates AS issuers USING (fingerprint) ORDER BY place) AS issuers
        FROM unnest($1::text[]) WITH ORDINALITY AS asked (id, number)
        CROSS JOIN LATERAL (
          SELECT certificate_id, der, chain FROM certificate_versions WHERE certificate_id = asked.id
          ORDER BY revoked_at IS NOT NULL, created_at DESC, certificate_versions.id DESC LIMIT 1) AS versions
        ORDER BY number
        """,
        certificate_ids,
    )


async def changed_lives(conn: Connection, now: datetime, shorter_than: timedelta | None, limit: int) -> list[Row]:
    """Return certificates whose life is another one than was told, with both, locked."""
    return await conn.fetch(
        """
        WITH found AS (
          (SELECT id FROM certificates
           WHERE told_life <> 'expired' AND standing = 'issued' AND NOT archived AND expires_at <= $1
           ORDER BY expires_at, id LIMIT $3)
          UNION ALL
          (SELECT id FROM certificates
           WHERE told_life = 'valid' AND standing = 'issued' AND NOT archived AND renew_at <= $1 AND expires_at > $1
           ORDER BY renew_at, id LIMIT $3)
          UNION ALL
          (SELECT id FROM certificates
           WHERE told_life = 'due' AND renew_at > $1 AND expires_at > $1 AND standing = 'issued' AND NOT archived
           ORDER BY renew_at, id LIMIT $3)
          UNION ALL
          (SELECT id FROM certificates
           WHERE told_life = 'expired' AND expires_at > $1 AND standing = 'issued' AND NOT archived
           ORDER BY expires_at, id LIMIT $3)
        )
        SELECT id, common_name, expires_at, service, told_life,
          CASE WHEN expires_at <= $1 THEN 'expired' WHEN renew_at <= $1 THEN 'due' ELSE 'valid' END AS life
        FROM certificates
        WHERE id IN (SELECT id FROM found) AND standing = 'issued' AND ($2::bigint IS NULL OR lifetime_s < $2)
          AND told_life <> CASE WHEN expires_at <= $1 THEN 'expired' WHEN renew_at <= $1 THEN 'due' ELSE 'valid' END
        ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
        """,
        now,
        None if shorter_than is None else int(shorter_than.total_seconds()),
        limit,
    )


async def set_told_lives(conn: Connection, told: Sequence[tuple[str, str]]) -> None:
    """Store which life of each certificate was told."""
    await conn.executemany("UPDATE certificates SET told_life = $2 WHERE id = $1", told)


async def next_life(conn: Connection) -> datetime | None:
    """Return when the next certificate falls due or expires."""
    moment: datetime | None = await conn.fetchval(
        """
        SELECT nullif(least(
          (SELECT expires_at FROM certificates WHERE told_life <> 'expired' AND standing = 'issued' AND NOT archived
           ORDER BY expires_at, id LIMIT 1),
          (SELECT renew_at FROM certificates WHERE told_life = 'valid' AND standing = 'issued' AND NOT archived
           ORDER BY renew_at, id LIMIT 1)), 'infinity')
        """
    )
    return moment
