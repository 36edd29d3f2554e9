"""What must hold when nothing is in motion. Each rule yields what contradicts it, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from benchmarks.checker.world import Row, World, leaf, spki_of_key

ENDED = {"Completed", "Failed", "Cancelled"}
GRACE = timedelta(minutes=1)
"""What falls due is noticed within seconds; this is many times longer."""
_RECORDED = {
    "agent.enrolled",
    "certificate.created",
    "certificate.csr_accepted",
    "certificate.due",
    "certificate.issued",
    "deployment.failed",
    "deployment.served",
    "issuance.failed",
}
Rule = Callable[[World], Iterator[str]]


def jobs_ended(world: World) -> Iterator[str]:
    """Every job ended, or waits for its next attempt with a reason on what it is for."""
    reasons = {(row["certificate_id"], row["agent_id"]): row["reason"] for row in world.rows("holders")}
    of_targets = {(row["certificate_id"], row["target_id"]): row["reason"] for row in world.rows("bindings")}
    for job in world.rows("jobs"):
        if job["state"] in ENDED:
            if job["finished_at"] is None:
                yield f"{job['id']} is {job['state']} and has no end"
            continue
        place = (job["certificate_id"], job["target_id"] or job["agent_id"])
        reason = (of_targets if job["target_id"] else reasons).get(place, "")
        if not (reason and job["not_before"] > world.at):
            yield f"{job['kind']} {job['id']} is still {job['state']}"


def one_version_per_request(world: World) -> Iterator[str]:
    """Each issuance that completed has one version, no other has one, and a run has one for each holder."""
    jobs, versions = world.by_id("jobs"), world.by_id("certificate_versions")
    made = Counter[str]()
    of_run = Counter[tuple[str, str]]()
    for request in world.rows("issuance_requests"):
        job = jobs[request["job_id"]]
        if request["version_id"]:
            made[request["job_id"]] += 1
            of_run[job["run_id"], versions[request["version_id"]]["holder"]] += 1
        elif request["state"] == "signing" and job["state"] in ENDED:
            yield f"request {request['id']} was never finished, and its job {job['id']} is {job['state']}"
    for job in jobs.values():
        wanted = 1 if job["kind"] == "issuance" and job["state"] == "Completed" else 0
        if made[job["id"]] != wanted:
            yield f"{job['kind']} {job['id']} is {job['state']} and released {made[job['id']]} versions"
    for (run, holder), count in of_run.items():
        if count > 1:
            yield f"run {run} released {count} versions to {holder}"
    requested = {request["version_id"] for request in world.rows("issuance_requests")}
    for version_id in versions.keys() - requested:
        yield f"version {version_id} was released without a request"


def signatures_known(world: World) -> Iterator[str]:
    """Each signature is in the database, each version in the log of signatures, each serial number used once."""
    known = {(row["issuer_id"], row["serial"]) for row in world.rows("issuance_requests")}
    signed = {line["fingerprint"] for line in world.signatures}
    for line in world.signatures:
        if (line["issuer_id"], line["serial"]) not in known:
            yield f"serial {line['serial']} was signed, and no request has it"
    for version in world.rows("certificate_versions"):
        if version["fingerprint"] not in signed:
            yield f"version {version['id']} is in no log of signatures"
    serials = Counter(row["serial"] for row in world.rows("issuance_requests"))
    yield from (f"serial {serial} stands in {count} requests" for serial, count in serials.items() if count > 1)


def keys_owned(world: World) -> Iterator[str]:
    """Each key on a disk belongs to a version or a request of that agent, and is the key that its name says."""
    owned = {(row["holder"], row["certificate_id"], row["spki_sha256"]) for row in world.rows("certificate_versions")}
    jobs = world.by_id("jobs")
    for row in world.rows("issuance_requests"):
        owned.add((jobs[row["job_id"]]["agent_id"], row["certificate_id"], row["spki_sha256"]))
    for agent_id, disk in world.disks.items():
        waiting = {path.stem for job, path in disk.requests.items() if job in jobs and jobs[job]["state"] not in ENDED}
        for key in disk.keys:
            if key.name != key.spki_sha256:
                yield f"{key.path} does not hold the key of its name"
            elif (agent_id, key.certificate_id, key.name) not in owned and key.name not in waiting:
                yield f"{key.path} belongs to nothing that was requested"


def keys_present(world: World) -> Iterator[str]:
    """Each holder has the key of its newest version on its disk."""
    versions = world.by_id("certificate_versions")
    for holder in world.rows("holders"):
        disk = world.disks.get(holder["agent_id"])
        if disk is None or holder["version_id"] is None:
            continue
        spki = versions[holder["version_id"]]["spki_sha256"]
        if not any(key.spki_sha256 == spki for key in disk.keys if key.certificate_id == holder["certificate_id"]):
            yield f"the key of {holder['version_id']} is not on the disk of {holder['agent_id']}"


def files_served(world: World) -> Iterator[str]:
    """Each target's files are a complete pair, and the version that the database calls served."""
    versions, targets = world.by_id("certificate_versions"), world.by_id("targets")
    for binding in world.rows("bindings"):
        target = targets[binding["target_id"]]
        if target["agent_id"] not in world.disks or binding["served_version_id"] is None:
            continue
        certificate = Path(target["config"]["cert_path"])
        key = Path(target["config"].get("key_path") or certificate)
        if not certificate.exists() or not key.exists():
            yield f"{target['id']} is said to be served, and {certificate} or {key} is missing"
            continue
        fingerprint, spki = leaf(certificate.read_bytes())
        if spki_of_key(key.read_bytes()) != spki:
            yield f"{certificate} and {key} do not belong together"
        if fingerprint != versions[binding["served_version_id"]]["fingerprint"]:
            yield f"{certificate} is not {binding['served_version_id']}, which {target['id']} is said to serve"


def bindings_satisfied(world: World) -> Iterator[str]:
    """Everything wanted is served, or somebody can read why not; everything due is being renewed, or likewise."""
    live = [job for job in world.rows("jobs") if job["state"] not in ENDED]
    deployed = {(job["certificate_id"], job["target_id"]) for job in live}
    issued = {(job["certificate_id"], job["agent_id"]) for job in live if job["kind"] == "issuance"}
    newest = {(row["certificate_id"], row["agent_id"]): row["version_id"] for row in world.rows("holders")}
    targets = world.by_id("targets")
    for row in world.rows("bindings"):
        place = (row["certificate_id"], row["target_id"])
        if row["desired_version_id"] != row["served_version_id"] and not (row["reason"] and place in deployed):
            yield f"{place} serves {row['served_version_id']} instead of {row['desired_version_id']}: {row['reason']!r}"
        if row["desired_version_id"] != newest[row["certificate_id"], targets[row["target_id"]]["agent_id"]]:
            yield f"{place} does not want its holder's newest version"
    for row in world.rows("holders"):
        place = (row["certificate_id"], row["agent_id"])
        late = row["renew_at"] is not None and row["renew_at"] < world.at - GRACE
        if (row["version_id"] is None or late) and place not in issued:
            yield f"{place} is due since {row['renew_at']} and nobody renews it: {row['reason']!r}"


def leases_consistent(world: World) -> Iterator[str]:
    """Each epoch counts its job's deliveries; a job that ended is leased to nobody."""
    for job in world.rows("jobs"):
        delivered = sum(step["step"] == "delivered" for step in job["timeline"])
        if job["lease_epoch"] != delivered:
            yield f"{job['id']} has epoch {job['lease_epoch']} and was delivered {delivered} times"
        if job["state"] in ENDED and job["lease_until"] is not None:
            yield f"{job['id']} is {job['state']} and still leased until {job['lease_until']}"
        if [step["step"] for step in job["timeline"]].count(job["state"].lower()) > 1:
            yield f"{job['id']} became {job['state']} more than once"


def audit_complete(world: World) -> Iterator[str]:
    """Each certificate, accepted CSR, version and ended attempt has its event, and has it once."""
    seen = Counter[tuple[str, str]]()
    for event in world.rows("audit_events"):
        details = event["details"]
        subject = {
            "certificate.created": event["resource_id"],
            "agent.enrolled": event["resource_id"],
            "certificate.issued": details.get("version_id", ""),
        }.get(event["action"], details.get("job_id", ""))
        seen[event["action"], subject] += 1
    due = set(_events_due(world))
    for what in due:
        if seen[what] != 1:
            yield f"{what[0]} of {what[1]} stands {seen[what]} times in the audit trail"
    for action, subject in seen.keys() - due:
        if action in _RECORDED:
            yield f"{action} of {subject} stands in the audit trail, and never happened"


def _events_due(world: World) -> Iterator[tuple[str, str]]:
    yield from (("certificate.created", row["id"]) for row in world.rows("certificates"))
    yield from (("agent.enrolled", row["id"]) for row in world.rows("agents"))
    yield from (("certificate.issued", row["id"]) for row in world.rows("certificate_versions"))
    yield from (("certificate.csr_accepted", row["job_id"]) for row in world.rows("issuance_requests"))
    yield from (("certificate.due", row["id"]) for row in world.rows("jobs") if row["trigger"] == "due")
    yield from filter(None, map(_end_of, world.rows("jobs")))


def _end_of(job: Row) -> tuple[str, str] | None:
    if job["state"] == "Failed" or (job["state"] == "Completed" and job["kind"] == "deployment"):
        return f"{job['kind']}.{'failed' if job['state'] == 'Failed' else 'served'}", job["id"]
    return None


def nothing_left_behind(world: World) -> Iterator[str]:
    """No journal, no temporary file, no scratch folder."""
    for disk in world.disks.values():
        yield from (str(path) for path in disk.leftovers)


RULES: dict[str, Rule] = {
    "jobs ended": jobs_ended,
    "one version per request": one_version_per_request,
    "signatures known": signatures_known,
    "keys owned": keys_owned,
    "keys present": keys_present,
    "files served": files_served,
    "bindings satisfied": bindings_satisfied,
    "leases consistent": leases_consistent,
    "audit complete": audit_complete,
    "nothing left behind": nothing_left_behind,
}


def check(world: World) -> dict[str, list[str]]:
    """Return the findings of each rule."""
    return {name: list(rule(world)) for name, rule in RULES.items()}
