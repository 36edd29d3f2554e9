"""How things stand, computed from rows: the state of a run, and the two axes of a certificate's status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from coordinator.certificates.status import Binding, Holder, status
from coordinator.jobs.routes import Job, run_state
from core.alerts import AlertRules

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULES = AlertRules([2, 1], {2: "error"}, {"error": ["mail"]})


def job(text: str) -> Job:
    """Read ``issuance a Completed``, ``deployment a/target Failed`` or ``deployment a/target Stored``."""
    kind, where, state = text.split()
    served = "f" * 64 if (kind, state) == ("deployment", "Completed") else ""
    state = "Completed" if state == "Stored" else state
    agent, _, target = where.partition("/")
    return Job(
        id="job-1",
        kind=kind,
        run_id="job-1",
        certificate_id="mc-1",
        agent_id=agent,
        target_id=target or None,
        version_id=None,
        state=state,
        trigger="created",
        attempt=1,
        not_before=NOW,
        lease_epoch=0,
        failure=None,
        undo="",
        served_fingerprint=served,
        timeline=[],
        created_at=NOW,
        started_at=NOW,
        finished_at=None,
    )


@pytest.mark.parametrize(
    "jobs,state",
    [
        (["issuance a AwaitingCSR"], "running"),
        (["issuance a AwaitingCA"], "running"),
        (["issuance a Completed"], "issued"),
        (["issuance a Failed"], "failed"),
        (["issuance a Cancelled"], "superseded"),
        (["issuance a Failed", "issuance a AwaitingCSR"], "retrying"),
        (["issuance a Failed", "issuance a Completed"], "issued"),
        (["issuance a Completed", "deployment a/1 Pending"], "running"),
        (["issuance a Completed", "deployment a/1 Completed"], "served"),
        (["issuance a Completed", "deployment a/1 Completed", "deployment a/2 Running"], "running"),
        (["issuance a Completed", "deployment a/1 Failed", "deployment a/1 Pending"], "retrying"),
        (["issuance a Completed", "deployment a/1 Failed", "deployment a/1 Completed"], "served"),
        (["issuance a Completed", "deployment a/1 Cancelled"], "superseded"),
        (["issuance a Completed", "deployment a/1 Completed", "deployment a/2 Cancelled"], "superseded"),
        (["issuance a Completed", "issuance b AwaitingCSR", "deployment a/1 Completed"], "running"),
        (["issuance a Completed", "issuance b Failed", "deployment a/1 Completed"], "failed"),
        (["issuance a Completed", "issuance b Completed", "deployment a/1 Completed"], "served"),
        (["issuance a Completed", "deployment a/1 Stored"], "stored"),
        (["issuance a Completed", "deployment a/1 Stored", "deployment a/2 Completed"], "stored"),
    ],
)
def test_the_newest_attempt_of_each_part_says_how_a_run_stands(jobs: list[str], state: str) -> None:
    assert run_state([job(text) for text in jobs]) == state


def holder(**changes: Any) -> Holder:
    row: dict[str, Any] = {
        "agent_id": "ag-1",
        "version_id": "cv-1",
        "generation": 1,
        "serial": "a",
        "fingerprint": "b",
        "failures": 0,
    }
    times = {"not_before": NOW, "not_after": NOW + timedelta(days=3), "renew_at": NOW + timedelta(days=2)}
    told = {"reason": "", "revoked_at": None, "failing": False, "issued_at": NOW}
    return Holder(**{**row, **times, **told, **changes})


def binding(desired: str | None = "cv-1", served: str | None = "cv-1", reason: str = "") -> Binding:
    row: dict[str, Any] = {
        "target_id": "tgt-1",
        "target_name": "a",
        "agent_id": "ag-1",
        "served_at": None,
        "drift": "",
        "drift_since": None,
        "failures": 0,
        "failing": False,
    }
    return Binding(**{**row, "desired_version_id": desired, "served_version_id": served, "reason": reason})


def drifted(found: Binding) -> Binding:
    return msgspec.structs.replace(found, drift="served differs")


PENDING = {"version_id": None, "not_after": None, "renew_at": None}


@pytest.mark.parametrize(
    "holders,life",
    [
        ([], "pending"),
        ([holder()], "valid"),
        ([holder(), holder(**PENDING)], "pending"),
        ([holder(renew_at=NOW)], "due"),
        ([holder(renew_at=None)], "valid"),
        ([holder(), holder(not_after=NOW)], "expired"),
        ([holder(not_after=NOW), holder(revoked_at=NOW)], "revoked"),
    ],
)
def test_the_worst_holder_says_how_a_certificate_lives(holders: list[Holder], life: str) -> None:
    assert status(holders, [], RULES, NOW).life == life


@pytest.mark.parametrize(
    "bindings,service,served_on",
    [
        ([], "unknown", 0),
        ([binding(None, None)], "unknown", 0),
        ([binding()], "served", 1),
        ([binding(), binding(served="cv-0")], "partly", 1),
        ([binding(served="cv-0"), binding(served=None)], "not served", 0),
        ([binding(served="cv-0"), binding(served="cv-0")], "outdated", 0),
        ([binding(), binding(None, None)], "partly", 1),
        ([binding(), drifted(binding())], "drifted", 2),
        ([binding(), drifted(binding(served=None))], "drifted", 1),
        ([drifted(binding(served=None))], "drifted", 0),
        ([binding(), drifted(binding()), binding(served=None)], "partly", 2),
    ],
)
def test_a_certificate_is_served_when_every_target_serves_what_it_should(
    bindings: list[Binding], service: str, served_on: int
) -> None:
    found = status([holder()], bindings, RULES, NOW)
    assert (found.service, found.served_on, found.wanted_on) == (service, served_on, len(bindings))


def test_one_that_failed_does_not_hide_that_seven_are_served() -> None:
    bindings = [*(binding() for _ in range(7)), binding(served=None, reason="nginx -t said no")]
    found = status([holder()], bindings, RULES, NOW)
    assert (found.service, found.served_on, found.wanted_on) == ("partly", 7, 8)
    assert found.reason == "nginx -t said no"


def test_the_earliest_end_and_the_first_reason_are_shown() -> None:
    late, early = holder(), holder(not_after=NOW + timedelta(days=1), renew_at=NOW + timedelta(hours=1))
    found = status([late, early], [binding(reason="nginx -t said no")], RULES, NOW)
    assert (found.expires_at, found.renew_at) == (early.not_after, early.renew_at)
    assert found.reason == "nginx -t said no"
    assert status([holder(reason="disk full")], [binding(reason="later")], RULES, NOW).reason == "disk full"


@pytest.mark.parametrize("days,threshold", [(0.5, None), (1, 2), (1.9, 2), (2, 1), (3, 1)])
def test_the_most_urgent_threshold_that_was_reached_is_shown(days: float, threshold: int | None) -> None:
    alert = status([holder(), holder(**PENDING)], [], RULES, NOW + timedelta(days=days)).alert
    assert (alert and alert.threshold_days) == threshold
    if alert:
        assert (alert.severity, alert.channels) == ("error", ("mail",))
    assert status([holder(revoked_at=NOW)], [], RULES, NOW + timedelta(days=days)).alert is None


def test_one_failing_place_makes_a_certificate_failing() -> None:
    assert not status([holder()], [binding()], RULES, NOW).failing
    assert status([holder(failing=True)], [binding()], RULES, NOW).failing
