"""``certctl targets test``: what people see of a trial, and what scripts go by."""

from __future__ import annotations

import json
from typing import Any

from tests.console import samples
from tests.console.conftest import Certctl
from tests.console.double import Double

AT = "2026-01-01T00:00:00Z"
OF = {"id": "trl-1", "target_id": samples.TARGET_ID, "agent_id": samples.AGENT_ID, "requested_at": AT}
ASKED: dict[str, Any] = {**OF, "ok": None, "finished_at": None, "steps": [], "failure": None}
PASSED = {**ASKED, "ok": True, "finished_at": AT, "steps": [{"name": "staged", "ms": 3.0, "detail": ""}]}
FAILED = {**PASSED, "ok": False, "failure": {"step": "checked", "cause": "nginx -t said no", "transient": True}}
PATH = "/api/v1/targets/tgt-web/test"


def test_a_test_that_is_not_waited_for_is_asked_for(certctl: Certctl, double: Double) -> None:
    double.on("POST", PATH, ASKED)
    result = certctl("targets", "test", "web")
    assert result.exit_code == 0
    assert "waits for its agent" in result.stdout


def test_the_end_is_waited_for_and_names_the_step(certctl: Certctl, double: Double) -> None:
    double.on("POST", PATH, ASKED)
    double.on("GET", "/api/v1/targets/tgt-web", samples.target(last_test=FAILED))
    result = certctl("targets", "test", "tgt-web", "--wait")
    assert result.exit_code == 1
    for text in ("A DEPLOYMENT WOULD FAIL", "staged", "checked", "nginx -t said no"):
        assert text in result.stdout


def test_scripts_get_the_end_as_json(certctl: Certctl, double: Double) -> None:
    double.on("POST", PATH, ASKED)
    double.on("GET", "/api/v1/targets/tgt-web", samples.target(last_test=PASSED))
    result = certctl("targets", "test", "tgt-web", "--wait", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ok"] is True


def test_who_does_not_hear_the_end_is_told_where_it_will_be(certctl: Certctl, double: Double) -> None:
    double.on("POST", PATH, ASKED)
    double.on("GET", "/api/v1/targets/tgt-web", samples.target(last_test=ASKED))
    result = certctl("targets", "test", "tgt-web", "--wait", "--timeout", "1s")
    assert result.exit_code != 0
    assert "certctl targets get tgt-web" in result.stderr
