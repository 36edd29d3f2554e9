"""How a cell comes about: what is asked for while which program is armed.

Most points lie on the way of any request. A staging brings about what the others need: a start in the middle of the
work, a silent agent, a second request, a refusal. None of them knows where the program will die.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from fnmatch import fnmatch

from benchmarks.lab.processes import Process
from tests.journeys.crash.customers import Customers
from tests.journeys.crash.estate import Estate
from tests.journeys.crash.lane import Lane
from tests.journeys.crash.orders import Orders
from tests.journeys.crash.points import ROADS, Cell, Program
from tests.journeys.crash.subject import HASTY_S, Subject

GENERATIONS = 5
"""Issued before a cell that needs old keys to be removed."""
_LONG_S = 4.0
Staging = Callable[[Lane, Program, Cell, Subject], None]


def process(lane: Lane, program: Program) -> Process:
    """Return the process of a program."""
    return lane.agent.process if program == "agent" else lane.coordinator.process


def on_the_way(lane: Lane, program: Program, cell: Cell, subject: Subject) -> None:
    """Ask; the armed program starts just before or just after that."""
    if program == "agent":
        lane.rest(lane.agent.process)
        subject.ask()
        lane.arm(lane.agent.process, cell.armed)
    else:
        lane.arm(lane.coordinator.process, cell.armed)
        subject.ask()


def in_the_middle(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The coordinator starts again while a request of it is open."""
    lane.agent.process.signal(signal.SIGSTOP)
    subject.ask()
    _start_armed(lane, cell)


def with_another_key(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The coordinator starts again with a new encryption key and the previous one."""
    made = lane.coordinator.data_dir / "encryption.key"
    coordinator = lane.coordinator.process
    coordinator.set_variable("CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS", lane.encryption_key or made.read_text().strip())
    lane.encryption_key = f"{cell}".rjust(48, "x")
    coordinator.set_variable("CERTCTL_CONFIG_ENCRYPTION_KEY", lane.encryption_key)
    in_the_middle(lane, _program, cell, subject)


def with_another_key_for_answers(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """There is an answer that is kept sealed, and then another encryption key."""
    team = {"name": f"kept {cell}"}
    headers = {"Idempotency-Key": f"{cell}"}
    lane.patiently(lambda: lane.api.http.post("/api/v1/teams", json=team, headers=headers).raise_for_status().text)
    with_another_key(lane, _program, cell, subject)


def signing_in(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The agent starts again, so that it has to sign in."""
    lane.rest(lane.agent.process)
    lane.arm(lane.coordinator.process, cell.armed)
    subject.ask()
    lane.wake(lane.agent.process)


def due(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """Nobody asks: the renewal is due when the coordinator starts."""
    lane.agent.process.signal(signal.SIGSTOP)
    subject.fall_due()
    _start_armed(lane, cell)


def silent(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The agent hangs in the middle of a deployment until its lease has run out."""
    _hang(lane, cell, subject)
    lane.rest(lane.coordinator.process)
    _live_deployments(lane, subject, "lease_until = now() - interval '1 s'")
    lane.arm(lane.coordinator.process, cell.armed)
    run_out = "kind = 'deployment' AND state = 'Running' AND lease_until < now()"
    lane.wait("the lease has ended", lambda: subject.jobs(run_out) == 0)
    lane.agent.process.signal(signal.SIGCONT)


def forgotten_deployment(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """Somebody ends the deployment's job behind the coordinator's back."""
    _hang(lane, cell, subject)
    lane.rest(lane.coordinator.process)
    _live_deployments(lane, subject, "state = 'Cancelled', finished_at = now()")
    _start_armed(lane, cell)


def forgotten_issuance(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """Somebody ends the issuance's job behind the coordinator's back."""
    lane.agent.process.signal(signal.SIGSTOP)
    subject.ask()
    lane.rest(lane.coordinator.process)
    lane.rows(
        "UPDATE jobs SET state = 'Cancelled', finished_at = now() WHERE certificate_id = $1 AND state = 'AwaitingCSR'",
        subject.certificate_id,
    )
    _start_armed(lane, cell)


def asked_again(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """A renewal is asked for while the deployment before it is still tried."""
    subject.mislead()
    subject.ask()
    again = "version_id = (SELECT version_id FROM holders WHERE certificate_id = $1) AND attempt > 1"
    lane.wait("a first failure", lambda: subject.versions() == subject.requests and subject.jobs(again) > 0)
    lane.arm(lane.coordinator.process, cell.armed)
    subject.ask()
    lane.wait("the second version", lambda: subject.versions() == subject.requests)
    if cell.road != "undo":
        subject.heal()


def changed_policy(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The renewal policy was changed just before the coordinator starts."""
    _marked(lane, cell, subject, "INSERT INTO renewal_replans (scope, id) VALUES ('policy', 'rp-default')")


def changed_rule(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """A rule was made just before the coordinator starts."""
    rule = (
        "INSERT INTO policies (id, name, type) VALUES ('pol-owner', 'Owner', 'required_owner') ON CONFLICT DO NOTHING"
    )
    lane.rows(rule)
    _marked(lane, cell, subject, "INSERT INTO policy_scans (rule_id) VALUES ('pol-owner')")


def approved(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """A second person has to agree, and does, again after a death that left the vote unheard."""
    lane.rows("UPDATE profiles SET requires_approval = true")
    subject.ask()
    waiting = "SELECT id FROM approvals WHERE certificate_id = $1 AND state = 'pending'"
    lane.wait("it waits for approval", lambda: len(lane.rows(waiting, subject.certificate_id)) == 1)
    approval_id = lane.value(waiting, subject.certificate_id)
    second = lane.api.post("/api/v1/api-keys", {"name": f"second-{approval_id}", "role": "approver"})["key"]
    lane.arm(lane.coordinator.process, cell.armed)
    lane.wait("the coordinator serves again", lane.is_ready)

    def agree() -> str:
        path, headers = f"/api/v1/approvals/{approval_id}/approve", {"Authorization": f"Bearer {second}"}
        response = lane.api.http.post(path, headers=headers, json={})
        assert response.status_code in {200, 409}, response.text
        return "approved"

    decided = "SELECT coalesce(max(state), '') FROM approvals WHERE id = $1 AND state <> 'pending'"
    lane.patiently(agree, lambda: str(lane.value(decided, approval_id)))
    lane.rows("UPDATE profiles SET requires_approval = false")


def untold(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """Something waits to be told when the coordinator starts."""
    told = f"'ntf-{cell}', '{cell}', 'certificate_failing', 'error', 'log', 'it fails', 'and why'"
    names = "id, key, type, severity, channel, subject, message"
    _marked(lane, cell, subject, f"INSERT INTO notifications ({names}) VALUES ({told})")


def near_its_end(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """While no coordinator runs, a threshold of the policy is crossed: all 47 days that a certificate has."""
    lane.agent.process.signal(signal.SIGSTOP)
    subject.ask()
    lane.rest(lane.coordinator.process)
    lane.rows("UPDATE renewal_policies SET alert_thresholds_days = '{47}'")
    lane.rows("UPDATE certificate_versions SET created_at = created_at - interval '1 day'")
    lane.rows("UPDATE alerts_watch SET looked_until = looked_until - interval '1 day'")
    lane.arm(lane.coordinator.process, cell.armed)
    # What is held now is about to end; what the agent gets next is not.
    lane.wait("the end was looked at", lambda: lane.deaths == 1)
    lane.agent.process.signal(signal.SIGCONT)


def overdue(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The agent was away for longer than a CSR is waited for."""
    lane.agent.process.signal(signal.SIGSTOP)
    subject.ask()
    lane.rest(lane.coordinator.process)
    long_ago = "created_at = now() - interval '25 h', not_before = now() - interval '25 h'"
    lane.rows(f"UPDATE jobs SET {long_ago} WHERE state = 'AwaitingCSR'")
    lane.arm(lane.coordinator.process, cell.armed)
    waiting = "state = 'AwaitingCSR' AND created_at < now() - interval '24 h'"
    lane.wait("it counts as failed", lambda: subject.jobs(waiting) == 0)
    lane.agent.process.signal(signal.SIGCONT)


def heard_again(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The agent counts as offline when the coordinator starts."""
    _found(lane, cell, subject, "UPDATE agents SET offline_since = last_seen_at, last_seen_at = now()")


def run_asked(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """Somebody has asked for a run of a loop just before the coordinator starts."""
    _found(lane, cell, subject, "UPDATE loop_runs SET asked = asked + 1 WHERE name = 'job-retry'")


def _found(lane: Lane, cell: Cell, subject: Subject, change: str) -> None:
    """Change the database between a request and the coordinator's next start."""
    lane.agent.process.signal(signal.SIGSTOP)
    subject.ask()
    lane.rest(lane.coordinator.process)
    lane.rows(change)
    _start_armed(lane, cell)


def _marked(lane: Lane, cell: Cell, subject: Subject, mark: str) -> None:
    """Leave a mark for the loops while no coordinator runs."""
    _found(lane, cell, subject, f"{mark} ON CONFLICT DO NOTHING")


def changed(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """What is wanted changes; it may have been archived before."""
    lane.arm(lane.coordinator.process, cell.armed)
    subject.change(archived=cell.point == "certificate.archived")


def revoked(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """What is served is revoked, which is the request for a renewal."""
    lane.arm(lane.coordinator.process, cell.armed)
    subject.revoke()


def sent_again(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """What is served is sent again just before a renewal is asked for."""
    lane.arm(lane.coordinator.process, cell.armed)
    subject.send_again()
    subject.ask()


def drifted(lane: Lane, program: Program, cell: Cell, subject: Subject) -> None:
    """What is installed was changed while the agent was away, which looks at it when it starts."""
    lane.rest(lane.agent.process)
    subject.drift()
    lane.agent.process.set_variable("CERTCTL_DRIFT_INTERVAL", "1s")
    lane.arm(process(lane, program), cell.armed)
    if program == "coordinator":
        lane.wake(lane.agent.process)
    lane.wait("a death over it", lambda: lane.deaths == 1)
    lane.wait("it is told", lambda: subject.drifts_told() == subject.drifted)
    lane.rest(lane.agent.process)
    lane.agent.process.set_variable("CERTCTL_DRIFT_INTERVAL", "0s")
    lane.wake(lane.agent.process)
    subject.ask()


def refused(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The first CSR is refused, because the issuer is switched off; the next job wants a new key."""
    failed = subject.jobs("kind = 'issuance' AND state = 'Failed'")
    lane.rows("UPDATE issuers SET enabled = false")
    subject.ask()
    lane.wait("a refusal", lambda: subject.jobs("kind = 'issuance' AND state = 'Failed'") > failed)
    lane.rows("UPDATE issuers SET enabled = true")
    lane.arm(lane.agent.process, cell.armed)


def month_missing(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The coordinator starts in a database without the last of the audit trail's months to come."""
    months = r"SELECT max(relname) AS value FROM pg_class WHERE relkind = 'r' AND relname ~ '^audit_events_\d{4}_\d\d$'"
    lane.rest(lane.coordinator.process)
    lane.rows(f"DROP TABLE {lane.value(months)}")
    _start_armed(lane, cell)
    subject.ask()


def month_expired(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """The coordinator starts with a month of the audit trail that is older than what is kept."""
    lane.rest(lane.coordinator.process)
    lane.rows(f"SELECT audit_make_month('2021-0{ROADS.index(cell.road) + 1}-01')")  # each goes once only
    lane.coordinator.process.set_variable("CERTCTL_AUDIT_RETENTION", "365d")
    _start_armed(lane, cell)
    subject.ask()


def beside(lane: Lane, _program: Program, cell: Cell, subject: Subject) -> None:
    """Other things are made, changed and removed before the certificate is asked for."""
    estate = Estate(lane)
    lane.arm(lane.coordinator.process, cell.armed)
    estate.change()
    assert estate.problems() == []
    subject.ask()


def enrolled(lane: Lane, program: Program, cell: Cell, subject: Subject) -> None:
    """An ACME client goes its whole way before the certificate is asked for."""
    customers = Customers(lane)
    lane.arm(process(lane, program), cell.armed)
    customers.change()
    assert customers.problems() == []
    subject.ask()


def ordered(lane: Lane, program: Program, cell: Cell, subject: Subject) -> None:
    """Other certificates come from an ACME authority before the certificate is asked for."""
    orders = Orders(lane)
    lane.arm(process(lane, program), cell.armed)
    orders.change()
    assert orders.problems() == []
    subject.ask()


STAGINGS: dict[str, Staging] = {
    "migration.*": in_the_middle,
    "start.*_resealed": with_another_key,
    "encryption.sealed_anew": with_another_key_for_answers,
    "start.*": in_the_middle,
    "session.*": signing_in,
    "renewal.queued": due,
    "certificate.life_told": due,
    "issuance.overdue": overdue,
    "agent.health_told": heard_again,
    "loops.run_answered": run_asked,
    "lease.expired": silent,
    "lease.superseded": asked_again,
    "reconcile.deployment_queued": forgotten_deployment,
    "reconcile.issuance_queued": forgotten_issuance,
    "keystore.request_dropped": refused,
    "audit.month_made": month_missing,
    "audit.month_dropped": month_expired,
    **dict.fromkeys(
        ("agent.renam*", "agent.retir*", "enrollment_token.*", "target.*", "issuer.*", "operation.*"), beside
    ),
    "certificate.imported": beside,
    **dict.fromkeys(("certificate.enrolled", "acme.*", "look.*"), enrolled),
    **dict.fromkeys(("ca_account.*", "ca_order.*", "challenge.*"), ordered),
    "renewal.planned": changed_policy,
    "rules.scanned": changed_rule,
    "approval.*": approved,
    "notification.queued": near_its_end,
    "notification.*": untold,
    "certificate.changed": changed,
    "certificate.archived": changed,
    "certificate.revoked": revoked,
    "certificate.deployment_requested": sent_again,
    "drift.found": drifted,
    "drift.told": drifted,
}
"""By the first pattern that a point fits; every other point is on the way."""

NOT_BROUGHT_ABOUT = {
    ("drift.found", "first"),
    ("drift.told", "first"),
    ("notification.queued", "first"),
    ("renewal.queued", "first"),
    ("certificate.life_told", "first"),
    ("certificate.changed", "first"),
    ("certificate.archived", "first"),
    ("certificate.revoked", "first"),
    ("certificate.deployment_requested", "first"),
    ("reconcile.issuance_queued", "renewal"),
    ("reconcile.issuance_queued", "undo"),
}
"""What a staging would bring about has no meaning on this road; the point is shown to be out of the way."""

BEGINNINGS = ("migration.*", "start.*", "enrollment.*", "identity.*", "file.staged")
"""Points of a first start: the road ``first`` goes over an installation of its own that is made with one of them."""


def is_beginning(cell: Cell) -> bool:
    """Say whether a cell needs an installation of its own."""
    resealed = fnmatch(cell.point, "start.*_resealed")
    return cell.road == "first" and not resealed and any(fnmatch(cell.point, pattern) for pattern in BEGINNINGS)


def staging(cell: Cell) -> Staging:
    """Return what brings a cell about."""
    if (cell.point, cell.road) in NOT_BROUGHT_ABOUT:
        return on_the_way
    return next((made for pattern, made in STAGINGS.items() if fnmatch(cell.point, pattern)), on_the_way)


def _start_armed(lane: Lane, cell: Cell) -> None:
    """Start the coordinator armed, wait until it serves, and let the agent go on."""
    lane.arm(lane.coordinator.process, cell.armed)
    lane.wait("the coordinator serves again", lane.is_ready)
    lane.agent.process.signal(signal.SIGCONT)


def _hang(lane: Lane, cell: Cell, subject: Subject) -> None:
    """Stop the agent while it looks for what it will not see."""
    subject.mislead(_LONG_S)
    subject.ask()
    lane.wait("the new version", lambda: subject.versions() == subject.requests)
    lane.wait("the new certificate is loaded", lambda: subject.newest() == subject.seen().fingerprint)
    lane.agent.process.signal(signal.SIGSTOP)
    if cell.road == "undo":
        subject.mislead(HASTY_S)
    else:
        subject.heal()


def _live_deployments(lane: Lane, subject: Subject, change: str) -> None:
    lane.rows(
        f"UPDATE jobs SET {change} WHERE certificate_id = $1 AND kind = 'deployment' AND state = 'Running'",
        subject.certificate_id,
    )
