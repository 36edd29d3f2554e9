"""What has to be true in the end of every cell, seen from outside: files, wire, database, audit trail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cryptography import x509

from tests.journeys.crash.sites import is_pair
from tests.journeys.crash.subject import Subject

KEPT_KEYS, KEPT_VERSIONS = 4, 4
"""In the key folder; beside the target's files, the one in use included."""
_LIVES = {"certificate.expiring", "certificate.active"}
"""Told where a certificate is still due when the loop looks; one that is renewed sooner is not told of."""


def problems(subject: Subject) -> list[str]:
    """Return what is not as it should be, in words; nothing when all is well."""
    return [
        *_served(subject),
        *_versions(subject),
        *_signatures(subject),
        *_jobs(subject),
        *_trail(subject),
        *_keys(subject),
        *_store(subject),
        *(f"{path} was left" for path in leftovers(subject)),
    ]


def _served(subject: Subject) -> list[str]:
    newest, found = subject.newest(), []
    if subject.seen().fingerprint != newest:
        found.append("clients do not see the newest version")
    if subject.installed() != newest:
        found.append("the newest version is not installed")
    if not is_pair(subject.cert.read_bytes(), (subject.pair or (subject.cert, subject.key))[-1].read_bytes()):
        found.append("what is installed is no pair")
    return found


def _versions(subject: Subject) -> list[str]:
    """One version for each request; every signature known; every serial number once."""
    rows = subject.lane.rows(
        """
        SELECT versions.generation, versions.serial, requests.serial AS intended, requests.state, requests.version_id,
          versions.id
        FROM issuance_requests AS requests
        FULL JOIN certificate_versions AS versions ON versions.id = requests.version_id
        WHERE coalesce(requests.certificate_id, versions.certificate_id) = $1 ORDER BY 1
        """,
        subject.certificate_id,
    )
    found = []
    if [row["generation"] for row in rows] != list(range(1, subject.requests + 1)):
        found.append(f"{subject.requests} requests made the versions {[row['generation'] for row in rows]}")
    if any(row["serial"] != row["intended"] or row["state"] != "issued" for row in rows):
        found.append("a version is not what was intended")
    if subject.lane.rows("SELECT serial FROM certificate_versions GROUP BY serial HAVING count(*) > 1"):
        found.append("a serial number is there twice")
    bound = subject.lane.rows("SELECT * FROM bindings WHERE certificate_id = $1", subject.certificate_id)
    if [row["served_version_id"] for row in bound] != [row["desired_version_id"] for row in bound]:
        found.append("the coordinator does not know that it is served")
    return found


def _signatures(subject: Subject) -> list[str]:
    """Whatever was signed, also by a program that died over it, has the serial number of a version, and no other."""
    asked = "SELECT serial, fingerprint FROM certificate_versions WHERE certificate_id = $1"
    versions = subject.lane.rows(asked, subject.certificate_id)
    jobs = subject.lane.rows("SELECT id FROM jobs WHERE certificate_id = $1", subject.certificate_id)
    signed = subject.lane.signatures({str(row["id"]) for row in jobs})
    unknown = {line["serial"] for line in signed} - {row["serial"] for row in versions}
    unsigned = {row["fingerprint"] for row in versions} - {line["fingerprint"] for line in signed}
    found = [f"the serial number {serial} was signed and is no version's" for serial in unknown]
    return [*found, *(f"nobody signed the version {value[:8]}…" for value in unsigned)]


def _jobs(subject: Subject) -> list[str]:
    live = subject.live_jobs()
    return [f"{live} jobs have not ended"] if live else []


def _trail(subject: Subject) -> list[str]:
    """Every change has its event once; what was rolled back has none."""
    rows = subject.lane.rows(
        "SELECT action, details->>'job_id' AS job_id FROM audit_events WHERE resource_id = $1", subject.certificate_id
    )
    told = Counter(row["action"] for row in rows)
    done = Counter(
        f"{row['kind']}.{row['state']}"
        for row in subject.lane.rows("SELECT kind, state FROM jobs WHERE certificate_id = $1", subject.certificate_id)
    )
    approvals = subject.lane.rows("SELECT state FROM approvals WHERE certificate_id = $1", subject.certificate_id)
    wanted = {
        "certificate.created": subject.created,
        "certificate.renewal_requested": subject.renewals,
        "certificate.due": subject.due,
        "certificate.updated": subject.changes,
        "certificate.archived": subject.archived,
        "certificate.revoked": subject.revoked,
        "certificate.deployment_requested": subject.sent,
        "certificate.drifted": subject.drifted,
        "certificate.csr_accepted": done["issuance.Completed"],
        "certificate.issued": subject.requests,
        "issuance.failed": done["issuance.Failed"],
        "deployment.served": done["deployment.Completed"],
        "deployment.failed": done["deployment.Failed"],
        "approval.requested": len(approvals),
        "approval.approved": sum(row["state"] == "approved" for row in approvals),
    }
    found = [f"{told[action]} events {action} for {count}" for action, count in wanted.items() if told[action] != count]
    events = Counter((row["action"], row["job_id"]) for row in rows if row["job_id"])
    twice = [f"{action} of {job_id} is told twice" for (action, job_id), count in events.items() if count > 1]
    unknown = [f"an event {action}" for action in told if action not in wanted.keys() | _LIVES]
    return [*found, *twice, *unknown]


def _keys(subject: Subject) -> list[str]:
    """Every key on the disk belongs to a version, and only the kept generations are there."""
    serials = {
        row["serial"]
        for row in subject.lane.rows(
            "SELECT serial FROM certificate_versions WHERE certificate_id = $1", subject.certificate_id
        )
    }
    folder, found = subject.lane.agent.state_dir / "keys" / subject.certificate_id, []
    keys = [path for path in folder.iterdir() if not path.suffix]
    for key in keys:
        chain = key.with_suffix(".pem")
        if not chain.exists() or not is_pair(chain.read_bytes(), key.read_bytes()):
            found.append(f"the key {key.name[:8]}… has no owner")
        elif f"{x509.load_pem_x509_certificates(chain.read_bytes())[0].serial_number:x}" not in serials:
            found.append(f"the key {key.name[:8]}… has a chain that nobody knows")
    if len(keys) > KEPT_KEYS:
        found.append(f"{len(keys)} keys are kept")
    if {path.name for path in folder.iterdir()} != {name for key in keys for name in (key.name, f"{key.name}.pem")}:
        found.append("something else lies among the keys")
    return found


def _store(subject: Subject) -> list[str]:
    """The versions beside the target's files are complete, and the published one is the newest."""
    root, found = subject.folder / ".certctl" / subject.target_id, []
    versions = sorted((root / "versions").glob("[0-9]*"), key=lambda path: int(path.name))
    if not versions:
        return ["no version is kept beside the files"]
    if len(versions) > KEPT_VERSIONS:
        found.append(f"{len(versions)} versions are kept beside the files")
    if (root / "current").resolve() != versions[-1]:
        found.append("the newest version is not the published one")
    names = {frozenset(path.name for path in version.iterdir()) for version in versions}
    if len(names) != 1:
        found.append(f"versions hold different files: {names}")
    return found


def leftovers(subject: Subject) -> list[Path]:
    """Return journals, temporary files and everything else that should not have stayed."""
    state, data = subject.lane.agent.state_dir, subject.lane.coordinator.data_dir
    hidden = [path for folder in (subject.folder, state, data) for path in folder.rglob(".*")]
    others = [*(state / "journal").glob("*"), *(state / "scratch").glob("*")]
    return [path for path in (*hidden, *others) if path.name != ".certctl"]
