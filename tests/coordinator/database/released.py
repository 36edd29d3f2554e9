"""Rows of an installation of the first released schema: what two certificates have left there in some months."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from coordinator.database.driver import RawConnection

NOW = datetime.now(UTC).replace(microsecond=0)
ROWS: dict[str, list[dict[str, object]]] = {
    "teams": [{"id": "default", "name": "default"}, {"id": "team-web", "name": "Web"}],
    "owners": [
        {"id": "default", "name": "default", "team_id": "default"},
        {"id": "o-ada", "name": "Ada", "email": "ada@example.com", "team_id": "team-web"},
    ],
    "issuers": [{"id": "iss-old", "name": "Old CA", "type": "local", "config": "{}"}],
    "profiles": [
        {
            "id": "prof-old",
            "name": "Old",
            "default_issuer_id": "iss-old",
            "key_algorithms": ["ecdsa-p256", "rsa-2048"],
            "default_lifetime_s": 90 * 86400,
            "max_lifetime_s": 398 * 86400,
            "extended_key_usages": ["serverAuth"],
        }
    ],
    "renewal_policies": [
        {"id": "rp-old", "name": "Old", "days_before": 30},
        {"id": "rp-hand", "name": "By hand", "auto_renew": False},
    ],
    "api_keys": [
        {
            "id": "key-ci",
            "name": "ci",
            "role": "operator",
            "lookup": b"12345678",
            "digest": b"x" * 32,
            "source": "database",
        }
    ],
    "agents": [
        {"id": "ag-1", "name": "web-1", "identity_key": b"1" * 32, "sealing_key": b"2" * 32, "os": "linux"},
        {
            "id": "ag-2",
            "name": "web-2",
            "identity_key": b"3" * 32,
            "sealing_key": b"4" * 32,
            "last_seen_at": NOW - timedelta(days=3),
        },
    ],
    "enrollment_tokens": [
        {
            "id": "tok-1",
            "digest": b"t" * 32,
            "created_by": "key:key-ci",
            "expires_at": NOW + timedelta(hours=1),
            "used_by": "ag-1",
            "used_at": NOW,
        }
    ],
    "targets": [
        {
            "id": f"tgt-{number}",
            "name": f"site {number}",
            "type": "nginx",
            "agent_id": "ag-1",
            "config": json.dumps({"cert_path": f"/etc/nginx/{number}.pem", "key_path": f"/etc/nginx/{number}.key"}),
        }
        for number in (1, 2)
    ],
    "certificates": [
        {
            "id": name,
            "name": name,
            "common_name": f"{name}.example.com",
            "names": json.dumps([{"kind": "dns", "value": f"{name}.example.com"}]),
            "profile_id": "prof-old",
            "issuer_id": "iss-old",
            "renewal_policy_id": policy,
            "owner_id": "o-ada",
            "team_id": "team-web",
            "environment": "production",
            "tags": json.dumps({"tier": "1"}),
            "key_algorithm": "ecdsa-p256",
            "lifetime_s": 90 * 86400,
        }
        for name, policy in (("mc-served", "rp-old"), ("mc-expired", "rp-hand"), ("mc-pending", "rp-old"))
    ],
    "certificate_versions": [
        {
            "id": f"cv-{name}",
            "certificate_id": f"mc-{name}",
            "generation": 1,
            "holder": "ag-1",
            "issuer_id": "iss-old",
            "issuer_ski": "ab" * 20,
            "serial": f"{number}a",
            "fingerprint": f"{number}" * 64,
            "spki_sha256": f"{number}" * 64,
            "key_algorithm": "ecdsa-p256",
            "not_before": end - timedelta(days=90),
            "not_after": end,
            "der": b"\x30\x00",
            "chain": [],
        }
        for number, name, end in ((1, "served", NOW + timedelta(days=60)), (2, "expired", NOW - timedelta(days=1)))
    ],
    "holders": [
        {
            "certificate_id": "mc-served",
            "agent_id": "ag-1",
            "version_id": "cv-served",
            "renew_at": NOW + timedelta(days=30),
        },
        {"certificate_id": "mc-expired", "agent_id": "ag-1", "version_id": "cv-expired"},
        {"certificate_id": "mc-pending", "agent_id": "ag-2", "failures": 3, "reason": "the disk is full"},
    ],
    "bindings": [
        {
            "certificate_id": "mc-served",
            "target_id": "tgt-1",
            "desired_version_id": "cv-served",
            "served_version_id": "cv-served",
            "served_at": NOW,
        },
        {"certificate_id": "mc-expired", "target_id": "tgt-2", "desired_version_id": "cv-expired"},
    ],
    "jobs": [
        {
            "id": "job-1",
            "kind": "issuance",
            "run_id": "job-1",
            "certificate_id": "mc-served",
            "agent_id": "ag-1",
            "state": "Completed",
            "trigger": "created",
            "timeline": json.dumps([{"step": "queued", "at": NOW.isoformat()}]),
            "finished_at": NOW,
        },
        {
            "id": "job-2",
            "kind": "issuance",
            "run_id": "job-2",
            "certificate_id": "mc-pending",
            "agent_id": "ag-2",
            "state": "AwaitingCSR",
            "trigger": "retry",
            "attempt": 4,
        },
        {
            "id": "job-3",
            "kind": "deployment",
            "run_id": "job-1",
            "certificate_id": "mc-expired",
            "agent_id": "ag-1",
            "target_id": "tgt-2",
            "version_id": "cv-expired",
            "state": "Failed",
            "trigger": "issued",
            "failure": json.dumps({"step": "reload", "cause": "nginx -t said no", "transient": True}),
        },
    ],
    "issuance_requests": [
        {
            "id": "req-1",
            "source": "agent",
            "requester": "agent:ag-1",
            "certificate_id": "mc-served",
            "job_id": "job-1",
            "issuer_id": "iss-old",
            "issuer_ski": "ab" * 20,
            "spki_sha256": "1" * 64,
            "csr": b"\x30\x00",
            "state": "issued",
            "serial": "1a",
            "not_before": NOW,
            "not_after": NOW + timedelta(days=60),
            "version_id": "cv-served",
        }
    ],
    "audit_events": [
        {
            "actor": "key:key-ci",
            "action": "certificate.created",
            "resource_type": "certificate",
            "resource_id": "mc-served",
            "details": json.dumps({"common_name": "mc-served.example.com"}),
            "at": NOW - timedelta(days=days),
        }
        for days in (200, 40, 0)
    ],
}
"""By table, in the order in which foreign keys allow them."""


async def fill(connection: RawConnection) -> None:
    """Insert the rows into a database with the first schema."""
    for table, rows in ROWS.items():
        for row in rows:
            places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
            await connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())
