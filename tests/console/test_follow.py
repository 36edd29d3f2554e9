"""Waiting for a run: live steps, failures with what was left behind, retries, restarts, the end of patience."""

from __future__ import annotations

import json
from typing import Any

import pytest

from console import follow
from console.model import Job
from tests.console import samples
from tests.console.conftest import Certctl
from tests.console.double import Asked, Double, Reply, page, problem

RUN = "/api/v1/runs/job-1"
RENEWED = {"certificate_id": "mc-api", "job_ids": ["job-1"], "run_id": "job-1"}
ISSUED = samples.issuance()


@pytest.fixture(autouse=True)
def renewable(double: Double) -> None:
    double.on("POST", "/api/v1/certificates/mc-api/renew", RENEWED, status=202)


def plays(double: Double, *runs: dict[str, Any]) -> None:
    """Let the run come as ``runs``, one for each poll, and stay as the last."""
    polls = iter(runs)
    last = runs[-1]

    def answer(_asked: Asked) -> Reply:
        return 200, next(polls, last)

    double.on("GET", RUN, answer)


def test_every_step_is_shown_once_until_it_is_served(certctl: Certctl, double: Double) -> None:
    queued = samples.issuance(state="AwaitingCSR", timeline=ISSUED["timeline"][:2])
    plays(
        double,
        samples.run("running", queued),
        samples.run("running", ISSUED, samples.deployment(state="Pending", timeline=samples.steps("queued", start=1))),
        samples.run("served", ISSUED, samples.deployment()),
    )
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 0
    shown = result.stdout
    steps = [
        "queued",
        "delivered",
        "key made (0.4 ms)",
        "CSR made (0.2 ms)",
        "signed (1.5 ms)",
        "edge-1/web",
        "staged (2.0 ms)",
    ]
    places = [shown.index(step) for step in [*steps, "published", "reloaded", "served (50 ms)", "is served on web"]]
    assert places == sorted(places)
    assert shown.count("CSR made") == 1
    assert "completed" not in shown
    assert "5e71a1" in shown
    assert samples.FINGERPRINT in shown
    seen = [asked.query.get("seen") for asked in double.asked if asked.path == RUN]
    assert seen == ["0", "2", "8"]


def test_seconds_count_from_the_first_step(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("served", ISSUED, samples.deployment()))
    lines = certctl("certificates", "renew", "mc-api", "--wait").stdout.splitlines()
    assert lines[0].split() == ["0.000", "s", "edge-1", "queued"]
    assert any(line.split()[:4] == ["1.000", "s", "edge-1/web", "queued"] for line in lines)


def test_one_json_object_comes_at_the_end(certctl: Certctl, double: Double) -> None:
    plays(
        double,
        samples.run("running", ISSUED, samples.retry(id="job-2")),
        samples.run("served", ISSUED, samples.deployment()),
    )
    result = certctl("certificates", "renew", "mc-api", "--wait", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["outcome"], document["failures"]) == (0, "served", [])
    assert document["run"]["state"] == "served"
    assert document["certificate"]["id"] == "mc-api"


def test_a_failure_says_cause_what_is_left_and_when_it_goes_on(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("retrying", ISSUED, samples.failed(), samples.retry()))
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 1
    assert "FAILED at checked: unknown directive\n            in nginx.conf:5\n" in result.stdout
    assert "what was there before is back" in result.stdout
    assert "attempt 2 is due" in result.stdout
    assert "in 5 minutes" in result.stdout
    assert "Not done on edge-1/web" in result.stdout


def test_a_failure_is_told_to_machines(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("retrying", ISSUED, samples.failed(), samples.retry()))
    result = certctl("certificates", "renew", "mc-api", "--wait", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["outcome"]) == (1, "failed")
    (failure,) = document["failures"]
    assert failure["step"] == "checked"
    assert failure["target_id"] == "tgt-web"
    assert failure["next_attempt_at"].startswith(samples.at(minutes=5)[:19])


def test_other_targets_are_waited_for_before_a_failure_ends_it(certctl: Certctl, double: Double) -> None:
    slow = {"target_id": "tgt-2", "id": "job-9"}
    plays(
        double,
        samples.run("retrying", ISSUED, samples.failed(), samples.deployment(**slow, state="Running"), samples.retry()),
        samples.run("retrying", ISSUED, samples.failed(), samples.deployment(**slow), samples.retry()),
    )
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 1
    assert len([path for path in double.paths() if path == RUN]) == 2


def test_a_retry_that_made_it_meanwhile_is_a_success(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("served", ISSUED, samples.failed(), samples.deployment(id="job-3", attempt=2)))
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 0
    assert "FAILED at checked" in result.stdout


def test_what_is_stored_is_done_and_not_said_to_be_served(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("stored", ISSUED, samples.deployment(served_fingerprint="")))
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 0
    assert "Not seen served" in result.stdout


def test_joining_an_attempt_is_not_blamed_for_its_predecessors(certctl: Certctl, double: Double) -> None:
    before = samples.issuance(state="Failed", failure={"step": "issuance", "cause": "long ago", "transient": True})
    again = samples.issuance(id="job-5", attempt=2)
    double.on(
        "POST",
        "/api/v1/certificates/mc-api/renew",
        {"certificate_id": "mc-api", "job_ids": ["job-5"], "run_id": "job-1"},
        status=202,
    )
    plays(double, samples.run("issued", before, again))
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 0
    assert "long ago" not in result.stdout


def test_what_was_joined_in_another_run_is_followed_too(certctl: Certctl, double: Double) -> None:
    joined = {"certificate_id": "mc-api", "job_ids": ["job-1", "job-7"], "run_id": "job-1"}
    double.on("POST", "/api/v1/certificates/mc-api/renew", joined, status=202)
    plays(double, samples.run("issued", ISSUED))
    other = samples.issuance(id="job-7", run_id="job-6", agent_id="ag-2", state="Failed")
    double.on("GET", "/api/v1/jobs/job-7", other)
    double.on("GET", "/api/v1/runs/job-6", samples.run("failed", other) | {"id": "job-6"})
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 1
    assert "ag-2" in result.stdout


def test_a_newer_version_took_over(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("superseded", ISSUED, samples.deployment(state="Cancelled")))
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert result.exit_code == 1
    assert "newer version took over" in result.stdout


def test_what_was_rejected_says_by_whom_and_why(certctl: Certctl, double: Double) -> None:
    failure = {"step": "approval", "cause": "rejected by ada: wrong name", "transient": False}
    plays(double, samples.run("failed", samples.issuance(state="Cancelled", failure=failure)))
    result = certctl("certificates", "renew", "mc-api", "--wait")
    assert (result.exit_code, "Not done: rejected by ada: wrong name" in result.stdout) == (1, True)


def test_a_restart_in_the_middle_is_survived(certctl: Certctl, double: Double) -> None:
    running = samples.run("running", samples.issuance(state="AwaitingCSR", timeline=ISSUED["timeline"][:2]))
    polls = 0

    def answer(_asked: Asked) -> Reply:
        nonlocal polls
        polls += 1
        if polls == 1:
            double.restart_in(0.6)
            return 200, running
        return (
            problem(503, "transient", "starting")
            if polls == 2
            else (200, samples.run("served", ISSUED, samples.deployment()))
        )

    double.on("GET", RUN, answer)
    result = certctl("certificates", "renew", "mc-api", "--wait", "--timeout", "30s")
    assert result.exit_code == 0
    assert result.stderr.count("trying again") == 1
    assert "answers again" in result.stderr
    assert result.stdout.count("delivered") == 2


def test_patience_ends_with_what_is_waited_for(certctl: Certctl, double: Double) -> None:
    idle = samples.issuance(state="AwaitingCSR", timeline=samples.steps("queued"), started_at=None)
    plays(double, samples.run("running", idle))
    result = certctl("certificates", "renew", "mc-api", "--wait", "--timeout", "1s")
    assert result.exit_code == 1
    assert "Not finished within 1 second" in result.stdout
    assert "edge-1: waits for the agent" in result.stdout
    document = json.loads(certctl("certificates", "renew", "mc-api", "--wait", "--timeout", "1s", "--json").stdout)
    assert document["outcome"] == "timeout"


def test_a_coordinator_that_stops_is_not_asked_without_pause(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("running", samples.issuance(state="AwaitingCSR", timeline=samples.steps("queued"))))
    certctl("certificates", "renew", "mc-api", "--wait", "--timeout", "1s")
    assert len([path for path in double.paths() if path == RUN]) < 8


def test_a_key_that_was_switched_off_ends_the_waiting(certctl: Certctl, double: Double) -> None:
    double.on("GET", RUN, lambda _: problem(401, "unauthenticated", "this key was switched off"))
    assert certctl("certificates", "renew", "mc-api", "--wait").exit_code == 3


def test_create_waits_as_well(certctl: Certctl, double: Double) -> None:
    double.on("POST", "/api/v1/certificates", {"certificate": samples.certificate(), "job_ids": ["job-1"]}, status=201)
    plays(double, samples.run("served", ISSUED, samples.deployment()))
    result = certctl("certificates", "create", "api.example.com", "--target", "web", "--wait")
    assert result.exit_code == 0
    assert "the api is served on web (edge-1)" in result.stdout


def test_a_run_is_followed_by_any_of_its_jobs(certctl: Certctl, double: Double) -> None:
    plays(double, samples.run("served", ISSUED, samples.deployment()))
    assert certctl("jobs", "follow", "job-2").exit_code == 0


def test_what_the_server_says_does_not_reach_the_terminal_raw(certctl: Certctl, double: Double) -> None:
    failure = {"step": "checked", "cause": "\x1b]0;owned\x07red \x1b[31m\u202etxet", "transient": True}
    plays(double, samples.run("failed", ISSUED, samples.failed(failure=failure)))
    shown = certctl("certificates", "renew", "mc-api", "--wait").stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    double.on("GET", "/api/v1/jobs", page([samples.failed(failure=failure)]))
    assert not {"\x1b", "\x07", "\u202e"} & set(certctl("jobs", "list", "--json").stdout)


def job(**other: Any) -> Job:
    import msgspec  # noqa: PLC0415 - of use here only

    return msgspec.convert(samples.deployment(**other), Job)


@pytest.mark.parametrize(
    "undo,left",
    [
        ("not_needed", "nothing had to be undone"),
        ("done", "is back"),
        ("failed", "the undo failed"),
        ("", "not reported"),
    ],
)
def test_what_a_failure_left_behind(undo: str, left: str) -> None:
    failure = {"step": "checked", "cause": "x"}
    assert left in follow.old_certificate(job(state="Failed", failure=failure, undo=undo))


def test_an_undo_is_taken_at_its_word() -> None:
    assert "the undo failed" in follow.old_certificate(job(state="Failed", undo="failed"))


@pytest.mark.parametrize(
    "states,outcome",
    [
        ((), None),
        (("Pending",), None),
        (("Completed",), "served"),
        (("Failed",), "failed"),
        (("Failed", "Pending"), "failed"),
        (("Failed", "Completed"), "served"),
        (("Failed", "Cancelled"), "failed"),
        (("Cancelled",), "superseded"),
        (("Cancelled", "Running"), None),
    ],
)
def test_attempts_at_one_thing_decide_how_it_ends(states: tuple[str, ...], outcome: str | None) -> None:
    jobs = [job(id=f"job-{place}", state=state) for place, state in enumerate(states)]
    assert follow.outcome_of(jobs) == outcome


def test_what_was_not_seen_is_stored() -> None:
    assert follow.outcome_of([job(state="Completed", served_fingerprint="")]) == "stored"
