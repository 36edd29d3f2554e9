"""Doing something to many certificates, and taking them in and out as files, against the double."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.console import samples
from tests.console.conftest import Certctl
from tests.console.double import Asked, Double, page, problem
from tests.core.test_bundles import KEYSTORE

CERTIFICATES, OPERATION = "/api/v1/certificates", "/api/v1/operations/op-1"


def operation(done: int = 0, *, total: int = 3, state: str = "running", **counts: int) -> dict[str, Any]:
    known = {"succeeded": done, "skipped": 0, "failed": 0, "cancelled": 0, **counts}
    ended = samples.at() if state in {"completed", "cancelled"} else None
    return {
        "id": "op-1",
        "kind": "renew",
        "state": state,
        "actor": "key:key-1",
        "criteria": {},
        "options": {},
        "total": total,
        "waiting": total - sum(known.values()),
        **known,
        "created_at": samples.at(),
        "expires_at": None,
        "started_at": samples.at(),
        "finished_at": ended,
    }


def begun(**more: Any) -> dict[str, Any]:
    return {"operation": operation(**more), "snapshot": None, "sample": []}


@pytest.fixture
def operating(double: Double) -> Double:
    """A double that shows three certificates, and works on them one by one."""
    progress = iter([operation(1), operation(2), operation(3, state="completed")])

    def begin(asked: Asked) -> tuple[int, Any]:
        if asked.body.get("dry_run"):
            sample = [{"id": "mc-api", "name": "the api", "common_name": "api.example.com"}]
            return 202, {"operation": operation(state="planned"), "snapshot": "op-1", "sample": sample}
        return 202, begun()

    for verb in ("renew", "revoke", "deploy", "reassign"):
        double.on("POST", f"{CERTIFICATES}/bulk-{verb}", begin)
    double.on("GET", OPERATION, lambda _asked: (200, next(progress)))
    return double


def sent(double: Double) -> list[Any]:
    return [asked.body for asked in double.asked if asked.method == "POST"]


def test_without_all_matching_nothing_is_done(certctl: Certctl, operating: Double) -> None:
    result = certctl("certificates", "renew", "--filter", "environment=prod", "--filter", "archived=false")
    assert result.exit_code == 0
    assert "3 match" in result.stdout
    assert "mc-api" in result.stdout
    assert "nothing was done" in result.stderr
    assert sent(operating) == [{"filter": {"environment": "prod", "archived": False}, "dry_run": True}]


def test_what_was_shown_is_done_and_followed_to_its_end(certctl: Certctl, operating: Double) -> None:
    result = certctl("certificates", "renew", "--filter", "environment=prod", "--all-matching")
    assert result.exit_code == 0
    assert sent(operating)[1] == {"snapshot": "op-1"}
    assert "1 of 3: 1 succeeded, 2 waiting" in result.stderr
    assert "op-1 is completed: 3 of 3: 3 succeeded" in result.stdout
    assert [asked.query["seen"] for asked in operating.asked if asked.path == OPERATION] == ["0", "1", "2"]


def test_machines_get_the_operation_as_it_ended(certctl: Certctl, operating: Double) -> None:
    result = certctl("certificates", "deploy", "--filter", "q=api", "--all-matching", "--json")
    assert json.loads(result.stdout) == operation(3, state="completed")


@pytest.mark.parametrize(
    "line,body",
    [
        ("revoke mc-api mc-api --no-renew", {"ids": ["mc-api", "mc-api"], "renew": False}),
        ("deploy mc-api", {"ids": ["mc-api"]}),
        ("reassign mc-api --team team-a --owner o-b", {"ids": ["mc-api"], "owner_id": "o-b", "team_id": "team-a"}),
    ],
)
def test_named_ones_are_done_at_once(certctl: Certctl, operating: Double, line: str, body: dict[str, Any]) -> None:
    assert certctl("certificates", *line.split()).exit_code == 0
    assert sent(operating) == [body]


def test_one_is_revoked_without_an_administrator(certctl: Certctl, double: Double) -> None:
    answer = {"certificate_id": "mc-api", "reason": "keyCompromise", "version_ids": ["cv-2"], "job_ids": ["job-9"]}
    double.on("POST", f"{CERTIFICATES}/mc-api/revoke", answer, 202)
    result = certctl("certificates", "revoke", "mc-api", "--reason", "keyCompromise")
    assert result.exit_code == 0
    assert "mc-api is revoked (keyCompromise): cv-2" in result.stdout
    assert "renewed" in result.stderr
    assert sent(double) == [{"reason": "keyCompromise"}]


def test_what_failed_is_told_and_is_the_exit_code(certctl: Certctl, double: Double) -> None:
    double.on("POST", f"{CERTIFICATES}/bulk-deploy", begun(), 202)
    double.on("GET", OPERATION, operation(2, state="completed", failed=1))
    item = {"certificate_id": "mc-x", "outcome": "failed", "detail": "there is no certificate mc-x", "job_ids": []}
    double.on("GET", f"{OPERATION}/items", page([{**item, "finished_at": samples.at()}]))
    result = certctl("certificates", "deploy", "mc-api")
    assert result.exit_code == 1
    assert "mc-x: there is no certificate mc-x" in result.stdout


def test_an_operation_is_followed_through_a_restart(
    certctl: Certctl, operating: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.commands.operations._PAUSE_S", 0)
    plain, answers = operating.answers["GET", OPERATION], iter([problem(503, "transient", "not now")])
    operating.on("GET", OPERATION, lambda asked: next(answers, None) or plain(asked))
    result = certctl("certificates", "deploy", "mc-api")
    assert result.exit_code == 0
    assert "not now" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "renew",
        "renew mc-api --filter q=api",
        "revoke",
        "deploy --filter nonsense",
        "export",
        "export mc-api --filter q=a",
    ],
)
def test_half_a_selection_is_wrong_usage(certctl: Certctl, double: Double, line: str) -> None:
    assert certctl("certificates", *line.split()).exit_code == 2
    assert sent(double) == []


def test_operations_are_listed_shown_and_cancelled(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/operations", page([operation(1)]))
    double.on("GET", OPERATION, operation(1))
    item = {"certificate_id": "mc-x", "outcome": "skipped", "detail": "has no holder", "job_ids": []}
    double.on("GET", f"{OPERATION}/items", page([{**item, "finished_at": samples.at()}]))
    double.on("POST", f"{OPERATION}/cancel", operation(1, state="cancelling"))
    assert "1 of 3" in certctl("operations", "list").stdout
    shown = certctl("operations", "show", "op-1", "--outcome", "skipped").stdout
    for text in ("op-1", "running", "mc-x", "skipped", "has no holder"):
        assert text in shown
    assert "cancelling" in certctl("operations", "cancel", "op-1").stdout


IMPORTED = {
    "total": 2,
    "imported": 1,
    "duplicates": 0,
    "authorities": 0,
    "dropped": 1,
    "failed": 0,
    "entries": [
        {"entry": "own", "outcome": "imported", "subject": "CN=a", "certificate_id": "mc-9"},
        {"entry": "own", "outcome": "dropped", "detail": "a private key"},
    ],
}


@pytest.mark.parametrize(
    "content,field", [(KEYSTORE, "jks"), (b"\x30\x82\x01", "pkcs12"), (b"-----BEGIN CERTIFICATE-----", "pem")]
)
def test_a_file_is_imported_by_what_it_is(
    certctl: Certctl, double: Double, tmp_path: Path, content: bytes, field: str
) -> None:
    double.on("POST", f"{CERTIFICATES}/import", IMPORTED, 201)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "password").write_text("changeit\n")
    result = certctl("certificates", "import", str(tmp_path / "file"), "--password-file", str(tmp_path / "password"))
    assert result.exit_code == 0
    assert "mc-9" in result.stdout
    (body,) = sent(double)
    assert body["password"] == "changeit"
    assert body[field] == (content.decode() if field == "pem" else base64.b64encode(content).decode())


def test_a_file_that_is_not_there_is_told(certctl: Certctl, double: Double, tmp_path: Path) -> None:
    result = certctl("certificates", "import", str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


def test_certificates_are_exported_as_files(certctl: Certctl, double: Double, tmp_path: Path) -> None:
    double.on("GET", f"{CERTIFICATES}/mc-api/export", b"\x30\x82DER")
    double.on("GET", f"{CERTIFICATES}/export", b"PEM of many")
    out = tmp_path / "api.cer"
    assert certctl("certificates", "export", "mc-api", "--format", "der", "--out", str(out)).exit_code == 0
    assert out.read_bytes() == b"\x30\x82DER"
    many = certctl("certificates", "export", "--filter", "environment=prod", "--include", "leaf")
    assert many.stdout == "PEM of many"
    assert double.asked[-1].query == {"environment": "prod", "include": "leaf"}
