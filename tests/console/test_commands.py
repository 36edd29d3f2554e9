"""Every command, for people and for machines, against the double."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from console.commands import look
from tests.console import samples
from tests.console.conftest import Certctl
from tests.console.double import Answering, Asked, Double, Reply, page, problem

LISTS = [
    ("certificates list", ["the api", "valid", "served (1/1)", "in 46 days", "mc-api"]),
    ("certificates versions mc-api", ["cv-2", "5e71a1"]),
    ("agents list", ["edge-1", "online", "Debian 12 x86_64", "ag-edge"]),
    ("targets list", ["web", "nginx", "edge-1", "/etc/nginx/certctl/web.crt"]),
    ("jobs list", ["job-2", "deployment", "the api", "edge-1/web", "Completed"]),
    ("approvals list", ["apr-1", "pending", "the api", "1 of 2", "key:key-1", "names", "in 6 days"]),
    ("notifications list", ["ntf-1", "dead", "email ada@example.com", "ends in 7 days", "550 no such user"]),
    ("audit list", ["key:key-1", "certificate.created", "mc-api", "serial=5e71a1"]),
    ("enrollment-tokens list", ["tok-1", "open", "in 23 hours", "rack 4"]),
    ("profiles list", ["prof-default", "47 days, at most 398 days"]),
    ("issuers list", ["iss-local", "Local CA", "enabled"]),
]
PAGES = [
    ("certificates get mc-api", ["the api (mc-api)", "www.example.com", "served, 1 of 1", samples.FINGERPRINT]),
    ("agents get edge-1", ["edge-1 (ag-edge)", "192.0.2.7", "in step"]),
    ("targets get web", ["web (tgt-web)", "probe.port", "8443"]),
    ("targets get edge-1/web", ["web (tgt-web)"]),
    ("jobs get job-2", ["the api (mc-api)", "reloaded", "4.0 ms"]),
    ("approvals show apr-1", ["1 of 2", "api.example.com www.example.com", "as announced", "47 days"]),
    ("notifications show ntf-1", ["certificate_expiring", "550 no such user", "Certificate the api ends"]),
    ("notifications counts", ["Unread", "3", "Dead", "2"]),
    ("profiles get Default", ["Default (prof-default)", "all"]),
    ("issuers get 'Local CA'", ["Local CA (iss-local)"]),
]


def words(line: str) -> list[str]:
    return [word.strip("'") for word in line.replace("'Local CA'", "Local\0CA").split()]


@pytest.mark.parametrize("line,expected", [*LISTS, *PAGES])
def test_people_see_what_matters(certctl: Certctl, line: str, expected: list[str]) -> None:
    result = certctl(*(word.replace("\0", " ") for word in words(line)))
    assert result.exit_code == 0
    for text in expected:
        assert text in result.stdout
    assert "\x1b" not in result.output


@pytest.mark.parametrize("line", [line for line, _ in LISTS])
def test_lists_are_one_json_document(certctl: Certctl, line: str) -> None:
    document = json.loads(certctl(*line.split(), "--json").stdout)
    assert set(document) == {"data", "total", "total_exact", "next_cursor"}
    assert document["total"] == len(document["data"]) == 1


def test_a_thing_is_answered_as_the_api_has_it(certctl: Certctl) -> None:
    document = json.loads(certctl("certificates", "get", "mc-api", "--json").stdout)
    assert document == json.loads(json.dumps(samples.certificate()))


def test_rows_of_a_table_stand_in_line(certctl: Certctl, double: Double) -> None:
    rows = [samples.certificate(name="証明書"), samples.certificate(name="a-much-longer-name")]
    double.on("GET", "/api/v1/certificates", page(rows))
    head, wide, plain = certctl("certificates", "list").stdout.splitlines()
    place = head.index("LIFE")
    assert plain[place:].startswith("valid")
    assert wide[place - 3 :].startswith("valid")  # three characters that take two columns each


def test_an_empty_list_says_so_beside_the_result(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/certificates", page([]))
    result = certctl("certificates", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "none\n")


def numbered(total: int) -> Answering:
    """Return answers of a list with ``total`` rows, whose cursor is a row's number."""

    def answer(asked: Asked) -> Reply:
        first = int(asked.query.get("cursor", "0"))
        last = min(first + int(asked.query["page_size"]), total)
        rows = [samples.certificate(id=f"mc-{number}") for number in range(first, last)]
        return 200, page(rows, total=total, next_cursor=str(last) if last < total else None)

    return answer


def test_all_walks_the_cursor_to_its_end(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/certificates", numbered(1234))
    document = json.loads(certctl("certificates", "list", "--all", "--json").stdout)
    assert [row["id"] for row in document["data"]] == [f"mc-{number}" for number in range(1234)]
    assert document["next_cursor"] is None
    assert len(double.asked) == 3


def test_a_limit_past_one_page_is_fetched_in_several(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/certificates", numbered(1234))
    document = json.loads(certctl("certificates", "list", "--limit", "600", "--json").stdout)
    assert (len(document["data"]), document["total"], document["next_cursor"]) == (600, 1234, "600")
    further = json.loads(certctl("certificates", "list", "--cursor", "600", "--limit", "1", "--json").stdout)
    assert further["data"][0]["id"] == "mc-600"


def test_a_shortened_list_says_how_much_there_is(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/certificates", numbered(70))
    assert "50 of 70; --all shows the rest" in certctl("certificates", "list").stderr


def test_filters_reach_the_api_with_names_resolved(certctl: Certctl, double: Double) -> None:
    certctl("jobs", "list", "--certificate", "mc-api", "--agent", "edge-1", "--state", "Failed", "--kind", "deployment")
    (asked,) = [asked for asked in double.asked if asked.path == "/api/v1/jobs"]
    wanted = {"certificate_id": "mc-api", "agent_id": "ag-edge", "state": "Failed", "kind": "deployment"}
    assert asked.query == {**wanted, "page_size": "50"}


def test_a_target_that_serves_something_old_says_what_and_why(certctl: Certctl, double: Double) -> None:
    behind = samples.binding(served_version_id="cv-1", reason="nginx -t failed", failures=3)
    stand = samples.status(service="not served", served_on=0, reason="nginx -t failed", bindings=[behind])
    double.on("GET", "/api/v1/certificates/mc-api", samples.certificate(status=stand))
    versions = [samples.version(), samples.version(id="cv-1", generation=1, holder="ag-gone")]
    double.on("GET", "/api/v1/certificates/mc-api/versions", page(versions))
    shown = certctl("certificates", "get", "mc-api").stdout
    assert "serves generation 1" in shown
    assert "web: nginx -t failed (3 attempts failed in a row)" in shown


def test_a_certificate_without_a_version_says_so(certctl: Certctl, double: Double) -> None:
    empty = samples.holder(version_id=None, generation=None, serial=None, fingerprint=None, not_after=None)
    stand = samples.status(life="pending", expires_at=None, renew_at=None, holders=[empty], bindings=[])
    double.on("GET", "/api/v1/certificates/mc-api", samples.certificate(status=stand))
    assert "nothing issued yet" in certctl("certificates", "get", "mc-api").stdout


def test_status_counts_and_lists_what_needs_a_hand(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/overview", samples.OVERVIEW)
    double.on("GET", "/api/v1/horizon", samples.HORIZON)
    double.on("GET", "/api/v1/agents", page([samples.agent(id="ag-2", name="edge-2", online=False)]))
    shown = certctl("status").stdout
    assert "2: 1 valid, 1 expired, 1 served, 1 drifted, 1 not served, 1 failing" in shown
    assert "2: 1 online, 1 away" in shown
    assert "expired, not served" in shown
    assert "the agent is away" in shown
    assert "edge-2" in shown
    document = json.loads(certctl("status", "--json").stdout)
    assert document["certificates"]["life"]["expired"] == 1
    assert document["user"] == "admin"


def test_what_has_drifted_is_listed_and_shown_where_people_look(certctl: Certctl, double: Double) -> None:
    target = samples.target(drift="missing")
    double.on("GET", "/api/v1/targets", page([target]))
    double.on("GET", "/api/v1/targets/tgt-web", target)
    assert "missing" in certctl("targets", "list", "--drifted").stdout
    assert double.asked[0].query["drifted"] == "true"
    assert "missing" in certctl("targets", "get", "tgt-web").stdout
    bound = samples.binding(drift="served differs", reason="served differs: 127.0.0.1:443 serves another")
    double.on("GET", "/api/v1/certificates/mc-api", samples.certificate(status=samples.status(bindings=[bound])))
    double.on("GET", "/api/v1/certificates/mc-api/versions", page([samples.version()]))
    shown = certctl("certificates", "get", "mc-api").stdout
    assert "served differs" in shown
    assert "127.0.0.1:443 serves another" in shown


def test_search_shows_what_was_found(certctl: Certctl, double: Double) -> None:
    hit = {"kind": "certificate", "id": "mc-api", "name": "api.example.com", "detail": ""}
    double.on("GET", "/api/v1/search", {"hits": [hit], "more": ["owner"]})
    result = certctl("search", "api")
    assert "mc-api" in result.stdout
    assert "there is more of: owner" in result.stderr
    assert double.asked[-1].query == {"q": "api"}


def test_a_run_is_shown_with_its_evidence(certctl: Certctl, double: Double) -> None:
    step = {
        "step": "served",
        "at": samples.at(),
        "ms": 1.5,
        "job_id": "job-1",
        "agent_id": "ag-1",
        "target_id": "tgt-1",
    }
    step["evidence"] = {"served_fingerprint": "ab12"}
    run = {"id": "job-1", "certificate_id": "mc-api", "state": "served", "seen": 1, "jobs": [], "steps": [step]}
    double.on("GET", "/api/v1/runs/job-1", run)
    shown = certctl("runs", "show", "job-1").stdout
    assert "served_fingerprint ab12" in shown


def test_create_sends_what_was_asked_for(certctl: Certctl, double: Double) -> None:
    created = {"certificate": samples.certificate(), "job_ids": ["job-1"]}
    double.on("POST", "/api/v1/certificates", created, status=201)
    options = (
        "--san www.example.com --target web --agent edge-1 --profile Default --lifetime 12h --key-algorithm rsa-2048"
    )
    more = "--name api --environment test --tag team=web --tag x=a=b --id mc-api"
    result = certctl("certificates", "create", "api.example.com", *options.split(), *more.split())
    assert result.exit_code == 0
    assert "mc-api" in result.stdout
    assert "certctl jobs follow job-1" in result.stderr
    assert double.asked[-1].body == {
        "common_name": "api.example.com",
        "sans": ["www.example.com"],
        "target_ids": ["tgt-web"],
        "agent_id": "ag-edge",
        "profile_id": "prof-default",
        "lifetime_s": 43200,
        "key_algorithm": "rsa-2048",
        "name": "api",
        "environment": "test",
        "tags": {"team": "web", "x": "a=b"},
        "id": "mc-api",
    }


def test_create_leaves_to_the_coordinator_what_was_not_given(certctl: Certctl, double: Double) -> None:
    double.on("POST", "/api/v1/certificates", {"certificate": samples.certificate(), "job_ids": []}, status=201)
    certctl("certificates", "create", "api.example.com")
    assert double.asked[-1].body == {"common_name": "api.example.com"}


def test_settings_of_a_target_are_json_where_they_can_be(certctl: Certctl, double: Double, tmp_path: Path) -> None:
    double.on("POST", "/api/v1/targets", samples.target(), status=201)
    config = tmp_path / "web.json"
    config.write_text('{"cert_path": "/old", "probe": {"host": "127.0.0.1"}}', encoding="utf-8")
    sets = ["cert_path=/etc/a.crt", "probe.port=8443", "key_mode=0600", 'probe.sni="1"', "keep=0"]
    options = [word for setting in sets for word in ("--set", setting)]
    result = certctl(
        "targets", "create", "web", "--type", "nginx", "--agent", "edge-1", "--config", str(config), *options
    )
    assert result.exit_code == 0
    probe = {"host": "127.0.0.1", "port": 8443, "sni": "1"}
    assert double.asked[-1].body["config"] == {"cert_path": "/etc/a.crt", "probe": probe, "key_mode": "0600", "keep": 0}


def test_a_target_is_read_from_standard_input(certctl: Certctl, double: Double) -> None:
    double.on("POST", "/api/v1/targets", samples.target(), status=201)
    certctl(
        "targets", "create", "web", "--type", "nginx", "--agent", "edge-1", "--config", "-", stdin='{"cert_path": "/a"}'
    )
    assert double.asked[-1].body["config"] == {"cert_path": "/a"}


def test_a_new_token_stands_alone_on_standard_output(certctl: Certctl, double: Double) -> None:
    created = {"id": "tok-1", "token": "shown-this-once", "expires_at": samples.at(hours=1)}
    double.on("POST", "/api/v1/enrollment-tokens", created, status=201)
    result = certctl("enrollment-tokens", "create", "--note", "rack 4", "--ttl", "1h")
    assert result.stdout == "shown-this-once\n"
    assert double.asked[-1].body == {"note": "rack 4", "ttl_s": 3600}


def test_a_renewal_without_waiting_says_how_to_follow_it(certctl: Certctl, double: Double) -> None:
    double.on(
        "POST",
        "/api/v1/certificates/mc-api/renew",
        {"certificate_id": "mc-api", "job_ids": ["job-1"], "run_id": "job-1"},
        status=202,
    )
    result = certctl("certificates", "renew", "api.example.com")
    assert result.exit_code == 0
    assert "job-1" in result.stdout
    assert json.loads(certctl("certificates", "renew", "mc-api", "--json").stdout)["run_id"] == "job-1"


@pytest.mark.parametrize("what,state,expected", [
    ("approve", {"state": "pending", "approved": 1}, "apr-1 is pending; 1 more to go"),
    ("approve", {"state": "approved", "approved": 2}, "apr-1 is approved"),
    ("reject", {"state": "rejected"}, "apr-1 is rejected"),
])  # fmt: skip
def test_a_word_is_given_with_its_note(
    certctl: Certctl, double: Double, what: str, state: dict[str, object], expected: str
) -> None:
    double.on("POST", f"/api/v1/approvals/apr-1/{what}", samples.approval(**state))
    assert certctl("approvals", what, "apr-1", "--note", "so be it").stdout == f"{expected}\n"
    assert double.asked[-1].body == {"note": "so be it"}


def test_whoever_asked_is_told_that_somebody_else_has_to_decide(certctl: Certctl, double: Double) -> None:
    answer = problem(403, "forbidden", "you have asked for this yourself; somebody else has to decide")
    double.on("POST", "/api/v1/approvals/apr-1/approve", lambda _asked: answer)
    result = certctl("approvals", "approve", "apr-1")
    assert (result.exit_code, "somebody else" in result.stderr) == (1, True)


def test_notifications_are_marked_and_sent_again(certctl: Certctl, double: Double) -> None:
    for what, told in (("read", "is marked as seen"), ("requeue", "will be sent again")):
        double.on("POST", f"/api/v1/notifications/ntf-1/{what}", samples.notification())
        assert certctl("notifications", what, "ntf-1").stdout == f"ntf-1 {told}\n"
    certctl("notifications", "list", "--unread", "--status", "dead", "--type", "certificate_failing")
    wanted = {"status": "dead", "type": "certificate_failing", "unread": "true"}
    assert double.asked[-1].query == {**wanted, "page_size": "50"}


def test_events_are_followed_from_one_stream_to_the_next(
    certctl: Certctl, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_PAUSE_S", 0.0)
    event = {"id": 7, "at": samples.at(), "action": "certificate.due", "resource_type": "certificate"}
    data = json.dumps({**event, "resource_id": "mc-api", "details": {"cause": "it is time"}})
    stream = f"retry: 2000\n\n: alive\nid: 1.2.0\n\nid: 1.2.7\ndata: {data}\n\nevent: reset\nid: 2.1.0\ndata: {{}}\n\n"
    answers = [stream.encode(), stream.encode()]

    def answer(_asked: Asked) -> tuple[int, object]:
        return (200, answers.pop()) if answers else problem(401, "unauthenticated", "this key was switched off")

    double.on("GET", "/api/v1/events", answer)
    result = certctl("events", "--about", "mc-api")
    assert result.exit_code == 3
    assert result.stdout.count("certificate.due") == 2
    assert "mc-api" in result.stdout
    assert "it is time" in result.stdout
    assert "another one" in result.stderr
    assert [asked.query for asked in double.asked if asked.path == "/api/v1/events"] == [{"resource_id": "mc-api"}] * 3
    answers.append(stream.encode())
    lines = certctl("events", "--json").stdout.splitlines()
    assert json.loads(lines[0])["place"] == "1.2.7"
