"""SQL of issuance requests and of what was issued."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row

_WANTED = """certificates.id, certificates.common_name, certificates.names, certificates.profile_id,
  certificates.issuer_id, certificates.renewal_policy_id, certificates.key_algorithm, certificates.lifetime_s,
  to_jsonb(profiles) AS profile, issuers.type AS issuer_type, issuers.enabled AS issuer_enabled"""
_KEY = "keys.ski, keys.chain, keys.sealed_key"
"""What ``issuers.signer_of`` takes; null for an authority elsewhere."""


async def wanted(conn: Connection, certificate_id: str, spki_sha256: str, holder: str) -> Row | None:
    """Return what a certificate should be like, with its ``profile`` as JSON and its authority's current key.

    ``key_refused`` says whether a holder of another kind has this key, or it was compromised: clients may use theirs
    more than once.
    """
    return await conn.fetchrow(
        f"""
        SELECT {_WANTED}, {_KEY}, EXISTS (
          SELECT FROM certificate_versions
          WHERE spki_sha256 = $2 AND (holder <> $3 OR revocation_reason = 'keyCompromise')) AS key_refused
        FROM certificates JOIN profiles ON profiles.id = profile_id JOIN issuers ON issuers.id = issuer_id
        LEFT JOIN issuer_keys AS keys ON keys.issuer_id = issuers.id AND is_current
        WHERE certificates.id = $1
        """,
        certificate_id,
        spki_sha256,
        holder,
    )


_REQUEST = """requests.id, requests.source, requests.certificate_id, requests.job_id, requests.issuer_id,
  requests.issuer_ski, requests.spki_sha256, requests.csr, requests.state, requests.serial, requests.not_before,
  requests.not_after, requests.version_id, requests.approved, requests.created_at"""


async def request_of_job(conn: Connection, job_id: str, *, lock: bool = False) -> Row | None:
    """Return the request that a job has led to, locked when asked."""
    tail = "FOR UPDATE" if lock else ""
    return await conn.fetchrow(f"SELECT {_REQUEST} FROM issuance_requests AS requests WHERE job_id = $1 {tail}", job_id)


async def request_to_finish(conn: Connection, job_id: str) -> Row | None:
    """Lock the certificate that a job is about, then its request and the job, and return all that signing needs.

    These are the request's columns, ``job`` and ``certificate`` as JSON, and the key that the request names.
    """
    return await conn.fetchrow(
        f"""
        WITH certificates AS MATERIALIZED (
          SELECT * FROM certificates WHERE id = (SELECT certificate_id FROM jobs WHERE id = $1) FOR NO KEY UPDATE
        ), wanted AS (
          SELECT {_WANTED}
          FROM certificates JOIN profiles ON profiles.id = profile_id JOIN issuers ON issuers.id = issuer_id)
        SELECT {_REQUEST}, to_jsonb(wanted) AS certificate, signs.enabled AS issuer_enabled, {_KEY},
          jsonb_build_object('id', jobs.id, 'kind', kind, 'state', jobs.state, 'run_id', run_id, 'agent_id', agent_id,
            'certificate_id', jobs.certificate_id) AS job
        FROM issuance_requests AS requests JOIN wanted ON wanted.id = requests.certificate_id
        JOIN jobs ON jobs.id = requests.job_id LEFT JOIN issuers AS signs ON signs.id = requests.issuer_id
        LEFT JOIN issuer_keys AS keys ON keys.issuer_id = requests.issuer_id AND keys.ski = requests.issuer_ski
        WHERE requests.job_id = $1 FOR UPDATE OF requests, jobs
        """,
        job_id,
    )


def insert_request(conn: Transaction, request: dict[str, Any]) -> None:
    """Have the intent to sign stored with what is gathered, before anything is signed."""
    names = list(request)
    places = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    conn.later(f"INSERT INTO issuance_requests ({', '.join(names)}) VALUES ({places})", *request.values())


async def order_request(conn: Connection, request_id: str, approved: dict[str, Any]) -> None:
    """Turn a request that waited into one whose certificate is ordered elsewhere."""
    await conn.execute(
        """
        UPDATE issuance_requests SET state = 'ordering', approved = $2, created_at = now()
        WHERE id = $1 AND state = 'waiting'
        """,
        request_id,
        approved,
    )


async def release_request(
    conn: Connection, request_id: str, issuer_ski: str, validity: tuple[datetime, datetime], approved: dict[str, Any]
) -> None:
    """Turn a request that waited into the intent to sign exactly what was approved; signing begins now."""
    await conn.execute(
        """
        UPDATE issuance_requests SET state = 'signing', issuer_ski = $2, not_before = $3, not_after = $4, approved = $5,
          created_at = now()
        WHERE id = $1 AND state = 'waiting'
        """,
        request_id,
        issuer_ski,
        *validity,
        approved,
    )


async def interrupted(conn: Connection, limit: int) -> list[str]:
    """Return the jobs whose signing began, did not end within ten seconds and is still wanted."""
    rows = await conn.fetch(
        """
        SELECT job_id FROM issuance_requests AS requests JOIN jobs ON jobs.id = requests.job_id
        WHERE requests.state = 'signing' AND requests.created_at < now() - interval '10 seconds'
          AND jobs.state = 'AwaitingCA'
        ORDER BY requests.created_at LIMIT $1
        """,
        limit,
    )
    return [row["job_id"] for row in rows]


async def next_interrupted(conn: Connection) -> float | None:
    """Return the seconds until the oldest signing that has not ended counts as interrupted."""
    wait: float | None = await conn.fetchval(
        """
        SELECT extract(epoch FROM min(created_at) + interval '10 seconds' - now())::float8 FROM issuance_requests
        WHERE state = 'signing' AND created_at > now() - interval '10 seconds'
        """
    )
    return wait


async def answer(conn: Connection, request_id: str, version: dict[str, Any]) -> int:
    """Answer a request by a new version, its holder's next generation; return which one that is.

    A certificate that no agent holds stands as the version that a client got: what triggers do for holders.
    """
    names = list(version)
    places = ", ".join(f"${place}" for place in range(2, len(names) + 2))
    generation: int = await conn.fetchval(
        f"""
        WITH version AS (
          INSERT INTO certificate_versions ({", ".join(names)}, generation)
          SELECT {places}, coalesce(max(generation), 0) + 1
          FROM certificate_versions WHERE certificate_id = $3 AND holder = $4
          RETURNING id, certificate_id, holder, not_after, generation
        ), certificate AS (
          UPDATE certificates SET standing = 'issued', expires_at = version.not_after FROM version
          WHERE certificates.id = version.certificate_id AND version.holder = 'client'
            AND NOT EXISTS (SELECT FROM holders WHERE holders.certificate_id = version.certificate_id)
        )
        UPDATE issuance_requests SET state = 'issued', version_id = version.id FROM version
        WHERE issuance_requests.id = $1 RETURNING generation
        """,
        request_id,
        *version.values(),
    )
    return generation


async def save_issuer_certificates(conn: Connection, certificates: Sequence[tuple[str, bytes]]) -> None:
    """Store issuer certificates by fingerprint, each once."""
    if certificates:
        await conn.executemany(
            "INSERT INTO issuer_certificates (fingerprint, der) VALUES ($1, $2) ON CONFLICT DO NOTHING", certificates
        )


async def chain_of(conn: Connection, version_id: str) -> tuple[bytes, ...]:
    """Return a version's chain in DER, leaf first."""
    row = await conn.fetchrow(
        """
        SELECT der, array(SELECT issuers.der FROM unnest(versions.chain) WITH ORDINALITY AS link(fingerprint, place)
                          JOIN issuer_certificates AS issuers USING (fingerprint) ORDER BY place) AS issuers
        FROM certificate_versions AS versions WHERE id = $1
        """,
        version_id,
    )
    return (row["der"], *row["issuers"]) if row else ()


async def key_in_use(conn: Connection, spki_sha256: str, certificate_id: str, holder: str) -> bool:
    """Say whether another certificate or another holder has this key, or will have it once its request is signed.

    One that was compromised is in use, whoever has it.
    """
    return bool(
        await conn.fetchval(
            """
            SELECT EXISTS (SELECT FROM certificate_versions
              WHERE spki_sha256 = $1 AND ((certificate_id, holder) <> ($2, $3) OR revocation_reason = 'keyCompromise'))
            OR EXISTS (SELECT FROM issuance_requests AS requests JOIN jobs ON jobs.id = requests.job_id
              WHERE requests.state IN ('waiting', 'signing', 'ordering') AND spki_sha256 = $1
                AND (requests.certificate_id, agent_id) <> ($2, $3))
            """,
            spki_sha256,
            certificate_id,
            holder,
        )
    )
