"""Things as the API answers them; every function takes what a test wants otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

NOW = datetime.now(UTC).replace(microsecond=0)
CERTIFICATE_ID, AGENT_ID, TARGET_ID = "mc-api", "ag-edge", "tgt-web"
FINGERPRINT = "ab" * 32


def at(**delta: float) -> str:
    return (NOW + timedelta(**delta)).isoformat()


def agent(**other: Any) -> dict[str, Any]:
    return {
        "id": AGENT_ID,
        "name": "edge-1",
        "hostname": "edge-1.example.com",
        "os": "Debian 12",
        "architecture": "x86_64",
        "address": "192.0.2.7",
        "version": "0.1.0",
        "skew_ms": 0,
        "last_seen_at": at(seconds=-4),
        "enrolled_at": at(days=-9),
        "retired_at": None,
        "retired_reason": "",
        "revision": 1,
        "online": True,
        **other,
    }


def target(**other: Any) -> dict[str, Any]:
    config = {"cert_path": "/etc/nginx/certctl/web.crt", "probe": {"port": 8443}}
    return {
        "id": TARGET_ID,
        "name": "web",
        "type": "nginx",
        "agent_id": AGENT_ID,
        "config": config,
        "enabled": True,
        "certificate_id": CERTIFICATE_ID,
        "archived_at": None,
        "archived_reason": "",
        "revision": 1,
        "created_at": at(days=-8),
        "updated_at": at(days=-8),
        "last_test": None,
        "drift": "",
        **other,
    }


def holder(**other: Any) -> dict[str, Any]:
    return {
        "agent_id": AGENT_ID,
        "version_id": "cv-2",
        "generation": 2,
        "serial": "5e71a1",
        "fingerprint": FINGERPRINT,
        "not_before": at(days=-1),
        "not_after": at(days=46, minutes=1),
        "issued_at": at(hours=-1),
        "renew_at": at(days=31, minutes=1),
        "revoked_at": None,
        "failures": 0,
        "failing": False,
        "reason": "",
        **other,
    }


def binding(**other: Any) -> dict[str, Any]:
    return {
        "target_id": TARGET_ID,
        "target_name": "web",
        "agent_id": AGENT_ID,
        "desired_version_id": "cv-2",
        "served_version_id": "cv-2",
        "served_at": at(minutes=-5),
        "drift": "",
        "drift_since": None,
        "failures": 0,
        "failing": False,
        "reason": "",
        **other,
    }


def status(**other: Any) -> dict[str, Any]:
    return {
        "life": "valid",
        "service": "served",
        "served_on": 1,
        "wanted_on": 1,
        "expires_at": at(days=46, minutes=1),
        "renew_at": at(days=31, minutes=1),
        "failing": False,
        "alert": None,
        "reason": "",
        "holders": [holder()],
        "bindings": [binding()],
        **other,
    }


def certificate(**other: Any) -> dict[str, Any]:
    return {
        "id": CERTIFICATE_ID,
        "name": "the api",
        "common_name": "api.example.com",
        "sans": ["api.example.com", "www.example.com"],
        "profile_id": "prof-default",
        "issuer_id": "iss-local",
        "renewal_policy_id": "rp-default",
        "owner_id": "default",
        "team_id": "default",
        "environment": "test",
        "tags": {"team": "web"},
        "key_algorithm": "ecdsa-p256",
        "lifetime_s": 47 * 86400,
        "target_ids": [TARGET_ID],
        "agent_id": None,
        "source": "api",
        "archived_at": None,
        "revision": 1,
        "created_at": at(days=-3),
        "updated_at": at(days=-3),
        "status": status(),
        **other,
    }


def version(**other: Any) -> dict[str, Any]:
    return {
        "id": "cv-2",
        "certificate_id": CERTIFICATE_ID,
        "generation": 2,
        "holder": AGENT_ID,
        "issuer_id": "iss-local",
        "serial": "5e71a1",
        "fingerprint": FINGERPRINT,
        "spki_sha256": "cd" * 32,
        "key_algorithm": "ecdsa-p256",
        "not_before": at(days=-1),
        "not_after": at(days=46),
        "revoked_at": None,
        "revocation_reason": None,
        "created_at": at(days=-1),
        "pem": "",
        **other,
    }


def profile(**other: Any) -> dict[str, Any]:
    return {
        "id": "prof-default",
        "name": "Default",
        "description": "",
        "default_issuer_id": "iss-local",
        "key_algorithms": ["ecdsa-p256"],
        "default_lifetime_s": 47 * 86400,
        "max_lifetime_s": 398 * 86400,
        "extended_key_usages": ["serverAuth"],
        "allowed_names": [],
        "allowed_issuer_ids": [],
        "required_names": [],
        "spiffe_uri_pattern": "",
        "must_staple": False,
        "requires_approval": False,
        "approvals_required": 1,
        "approve_renewals": True,
        "approver_owner_ids": [],
        "acme_auth_mode": None,
        "acme_open_accounts": False,
        "revision": 1,
        "updated_at": "2026-03-01T12:00:00Z",
        "enabled": True,
        "created_at": at(days=-9),
        **other,
    }


def issuer(**other: Any) -> dict[str, Any]:
    return {
        "id": "iss-local",
        "name": "Local CA",
        "type": "local",
        "config": {},
        "enabled": True,
        "parent_issuer_id": None,
        "key": None,
        "revision": 1,
        "created_at": at(days=-9),
        "updated_at": at(days=-9),
        **other,
    }


def event(**other: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "at": at(minutes=-1),
        "actor": "key:key-1",
        "action": "certificate.created",
        "resource_type": "certificate",
        "resource_id": CERTIFICATE_ID,
        "request_id": "req-1",
        "details": {"serial": "5e71a1", "names": ["a"]},
        **other,
    }


def token(**other: Any) -> dict[str, Any]:
    return {
        "id": "tok-1",
        "note": "rack 4",
        "created_by": "key:key-1",
        "created_at": at(hours=-1),
        "expires_at": at(hours=23),
        "used_by": None,
        "used_at": None,
        "revoked_at": None,
        **other,
    }


def steps(*names: str, start: float = 0.0) -> list[dict[str, Any]]:
    """Return a timeline: ``name`` is a mark, ``name=ms`` finished work; a tenth of a second lies between."""
    timeline = []
    for place, text in enumerate(names):
        name, measured, ms = text.partition("=")
        step: dict[str, Any] = {"step": name, "at": at(seconds=start + place / 10)}
        timeline.append(step | ({"ms": float(ms)} if measured else {}))
    return timeline


def issuance(**other: Any) -> dict[str, Any]:
    return {
        "id": "job-1",
        "kind": "issuance",
        "run_id": "job-1",
        "certificate_id": CERTIFICATE_ID,
        "agent_id": AGENT_ID,
        "target_id": None,
        "version_id": None,
        "state": "Completed",
        "trigger": "requested",
        "attempt": 1,
        "not_before": at(),
        "lease_epoch": 1,
        "failure": None,
        "undo": "",
        "served_fingerprint": "",
        "timeline": steps("queued", "delivered", "key=0.4", "csr=0.2", "awaitingca", "signed=1.5", "completed"),
        "created_at": at(),
        "started_at": at(),
        "finished_at": None,
        **other,
    }


def deployment(**other: Any) -> dict[str, Any]:
    done = steps("queued", "delivered", "staged=2", "published=3", "reloaded=4", "served=50", "completed", start=1)
    return issuance(
        **{
            "id": "job-2",
            "kind": "deployment",
            "target_id": TARGET_ID,
            "version_id": "cv-2",
            "trigger": "issued",
            "timeline": done,
            "served_fingerprint": "f" * 64,
            **other,
        }
    )


def failed(**other: Any) -> dict[str, Any]:
    """Return a deployment that failed and was undone."""
    timeline = steps("queued", "delivered", "staged=2", "published=3", "undone=9", "failed", start=1)
    failure = {"step": "checked", "cause": "unknown directive\nin nginx.conf:5", "transient": True}
    return deployment(
        **{
            "state": "Failed",
            "failure": failure,
            "undo": "done",
            "timeline": timeline,
            "served_fingerprint": "",
            **other,
        }
    )


def retry(**other: Any) -> dict[str, Any]:
    """Return the attempt after a failed one."""
    timeline = steps("queued", start=2)
    fresh = {"id": "job-3", "state": "Pending", "attempt": 2, "trigger": "retry", "not_before": at(minutes=5)}
    return deployment(**{**fresh, "timeline": timeline, "started_at": None, **other})


def run(state: str, *jobs: dict[str, Any]) -> dict[str, Any]:
    seen = sum(len(job["timeline"]) for job in jobs)
    return {
        "id": "job-1",
        "certificate_id": CERTIFICATE_ID,
        "state": state,
        "seen": seen,
        "jobs": list(jobs),
        "steps": [],
    }


def approval(**other: Any) -> dict[str, Any]:
    wanted = {
        "common_name": "api.example.com",
        "names": ["api.example.com", "www.example.com"],
        "key_algorithm": "ecdsa-p256",
        "lifetime_s": 47 * 86400,
        "issuer_id": "iss-local",
        "extended_key_usages": ["serverAuth"],
        "must_staple": False,
        "spki_sha256": FINGERPRINT,
        "csr_sha256": FINGERPRINT,
        "profile_revision": 3,
    }
    return {
        "id": "apr-1",
        "state": "pending",
        "certificate_id": CERTIFICATE_ID,
        "job_id": "job-1",
        "agent_id": AGENT_ID,
        "profile_id": "prof-default",
        "requested_by": ["key:key-1"],
        "required": 2,
        "approved": 1,
        "wanted": wanted,
        "changes": [{"field": "names", "before": "api.example.com", "after": "api.example.com www.example.com"}],
        "votes": [{"by": "key:key-2", "name": "ada", "vote": "approve", "note": "as announced", "at": at(minutes=-3)}],
        "reason": "",
        "expires_at": at(days=6, minutes=1),
        "decided_at": None,
        "created_at": at(days=-1),
        **other,
    }


def notification(**other: Any) -> dict[str, Any]:
    return {
        "id": "ntf-1",
        "type": "certificate_expiring",
        "severity": "error",
        "certificate_id": CERTIFICATE_ID,
        "channel": "email",
        "recipient": "ada@example.com",
        "subject": "the api ends in 7 days",
        "message": "Certificate the api ends",
        "status": "dead",
        "retry_count": 10,
        "next_retry_at": None,
        "last_error": "550 no such user",
        "sent_at": None,
        "read_at": None,
        "created_at": at(minutes=-3),
        **other,
    }


OVERVIEW: dict[str, Any] = {
    "at": at(),
    "certificates": {
        "total": 2,
        "life": {"pending": 0, "valid": 1, "due": 0, "expired": 1, "revoked": 0},
        "service": {"served": 1, "partly": 0, "drifted": 1, "outdated": 0, "not served": 1, "unknown": 0},
        "failing": 1,
    },
    "agents": {"total": 2, "online": 1, "offline": 1},
    "approvals_pending": 0,
    "jobs": {"live": 1, "states": {"Pending": 1}, "oldest_s": {"Pending": 3.5}},
    "next_due": [],
    "newest_failures": [],
}
HORIZON: dict[str, Any] = {
    "at": at(),
    "buckets": [],
    "at_risk": [
        {
            "id": "mc-old",
            "name": "old",
            "life": "expired",
            "service": "not served",
            "expires_at": at(days=-2),
            "renew_at": at(days=-9),
            "failing": True,
            "reason": "the agent is away",
            "why": ["expired", "failing"],
        }
    ],
}
