"""What goes wrong: the exit code, the remedy, and that no key is ever shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme

from tests.console import samples
from tests.console.conftest import Certctl
from tests.console.double import KEY, Double, page, problem


def test_nobody_listens(certctl: Certctl, double: Double) -> None:
    double.stop()
    result = certctl("status")
    assert result.exit_code == 3
    assert "nothing listens at" in result.stderr
    assert "CERTCTL_SERVER_URL" in result.stderr


def test_a_name_that_leads_nowhere(certctl: Certctl) -> None:
    result = certctl("status", "--server", "https://coordinator.invalid:8443")
    assert result.exit_code == 3
    assert "cannot be reached" in result.stderr


def test_a_server_that_is_not_trusted(certctl: Certctl, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    result = certctl("status", "--ca-bundle", str(stranger))
    assert result.exit_code == 3
    assert str(stranger) in result.stderr


def test_a_server_of_unknown_authority_names_the_remedy(certctl: Certctl) -> None:
    result = certctl("status", CERTCTL_SERVER_CA_BUNDLE_PATH="")
    assert result.exit_code == 3
    assert "CERTCTL_SERVER_CA_BUNDLE_PATH" in result.stderr


@pytest.mark.parametrize("content", ["", "not PEM"])
def test_a_bundle_without_certificates(certctl: Certctl, tmp_path: Path, content: str) -> None:
    bundle = tmp_path / "empty.pem"
    bundle.write_text(content, encoding="utf-8")
    result = certctl("status", "--ca-bundle", str(bundle))
    assert result.exit_code == 2
    assert "PEM" in result.stderr
    assert certctl("status", "--ca-bundle", str(tmp_path / "missing")).exit_code == 2


def test_an_unknown_key(certctl: Certctl) -> None:
    result = certctl("certificates", "list", CERTCTL_API_KEY="some-other-key-0123456789")
    assert result.exit_code == 3
    assert "not known" in result.stderr
    assert "some-other-key" not in result.output


def test_no_key_at_all(certctl: Certctl) -> None:
    result = certctl("certificates", "list", CERTCTL_API_KEY="")
    assert result.exit_code == 3
    assert "CERTCTL_API_KEY" in result.stderr


def test_a_key_of_too_small_a_role_is_a_refusal(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/audit", lambda _: problem(403, "forbidden", "the role 'viewer' may not do this"))
    result = certctl("audit", "list")
    assert result.exit_code == 1
    assert "the role 'viewer'" in result.stderr


def test_every_field_at_fault_is_named(certctl: Certctl, double: Double) -> None:
    errors = [{"field": "sans[0]", "problem": "is not a name"}, {"field": "sans[1]", "problem": "is no name either"}]
    double.on(
        "POST", "/api/v1/certificates", lambda _: problem(400, "invalid-input", "sans[0]: is not a name", errors=errors)
    )
    result = certctl("certificates", "create", "api.example.com", "--san", "_", "--san", "-")
    assert result.exit_code == 2
    assert result.stderr == "certctl: sans[0]: is not a name\n  sans[1]: is no name either\n"


def test_a_refusal_is_told_to_machines_as_a_problem(certctl: Certctl, double: Double) -> None:
    double.on("POST", "/api/v1/certificates", lambda _: problem(422, "refused", "the profile forbids it"))
    result = certctl("certificates", "create", "api.example.com", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    document = json.loads(result.stderr)
    assert document["type"] == "urn:certctl:problem:refused"
    assert (document["detail"], document["exit_code"]) == ("the profile forbids it", 1)


@pytest.mark.parametrize(
    "status,exit_code", [(404, 1), (409, 1), (410, 1), (500, 1), (502, 3), (503, 3), (504, 3), (418, 1)]
)
def test_other_refusals(certctl: Certctl, double: Double, status: int, exit_code: int) -> None:
    double.on("GET", "/api/v1/issuers", lambda _: problem(status, "x", "no such luck"))
    result = certctl("issuers", "list")
    assert result.exit_code == exit_code
    assert "no such luck" in result.stderr


def test_an_error_of_the_coordinator_names_its_request(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/issuers", lambda _: problem(500, "x", "an unexpected error"))
    assert "req-1" in certctl("issuers", "list").stderr


def test_an_answer_of_something_else(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/issuers", b"<html>a proxy's page</html>", status=502)
    assert certctl("issuers", "list").exit_code == 3
    double.on("GET", "/api/v1/version", b'{"version": 3}')
    result = certctl("status")
    assert result.exit_code == 1
    double.on("GET", "/api/v1/issuers", lambda _: (302, {}))
    assert "leads elsewhere" in certctl("issuers", "list").stderr


def test_a_name_of_nothing_and_a_name_of_two(certctl: Certctl, double: Double) -> None:
    missing = certctl("certificates", "get", "nobody.example.com")
    assert missing.exit_code == 1
    assert "certctl certificates list" in missing.stderr
    twins = [samples.target(), samples.target(id="tgt-2", agent_id="ag-2")]
    double.on("GET", "/api/v1/targets", page(twins))
    ambiguous = certctl("targets", "get", "web")
    assert ambiguous.exit_code == 2
    assert "tgt-web, tgt-2" in ambiguous.stderr


def test_an_id_goes_before_a_name(certctl: Certctl, double: Double) -> None:
    double.on("GET", "/api/v1/certificates", page([samples.certificate(id="mc-other", name="mc-api")]))
    assert "(mc-api)" in certctl("certificates", "get", "mc-api").stdout
    double.answers.pop(("GET", "/api/v1/certificates/mc-api"))
    double.on("GET", "/api/v1/certificates/mc-other/versions", page([]))
    assert "(mc-other)" in certctl("certificates", "get", "mc-api").stdout


@pytest.mark.parametrize("reference", ["../agents", "..", "a/b?c=d", "mc-api/versions", "%2e%2e"])
def test_no_reference_leaves_its_collection(certctl: Certctl, double: Double, reference: str) -> None:
    assert certctl("certificates", "get", reference).exit_code == 1
    assert set(double.paths()) == {"/api/v1/certificates"}


@pytest.mark.parametrize(
    "line",
    [
        "certificates create api.example.com --lifetime forever",
        "certificates create api.example.com --lifetime 0s",
        "certificates create api.example.com --tag plain",
        "certificates create api.example.com --wait",
        "certificates renew mc-api --wait --timeout soon",
        "certificates list --all --limit 3",
        "certificates list --limit 0",
        "certificates frobnicate",
        "targets create web --type nginx",
        "targets create web --type nginx --agent edge-1 --set cert_path",
        "targets create web --type nginx --agent edge-1 --set a=1 --set a.b=2",
        "targets create web --type nginx --agent edge-1 --config /nowhere",
        "status --server http://127.0.0.1:8443",
        "status --api-key-file /nowhere",
    ],
)
def test_wrong_usage_asks_nothing_of_the_coordinator_to_change(certctl: Certctl, double: Double, line: str) -> None:
    result = certctl(*line.split())
    assert result.exit_code == 2
    assert result.stderr
    assert double.paths("POST") == []


def test_a_password_in_the_address_is_not_repeated(certctl: Certctl) -> None:
    result = certctl("status", "--server", "https://admin:hidden-word@127.0.0.1:8443")
    assert result.exit_code == 2
    assert "hidden-word" not in result.output


@pytest.mark.parametrize("key", ["two words here and there", "schlüssel-0123456789", "line\nbreak-0123456789"])
def test_a_key_that_is_none_is_not_repeated(certctl: Certctl, key: str) -> None:
    result = certctl("status", CERTCTL_API_KEY=key)
    assert result.exit_code == 2
    assert "CERTCTL_API_KEY" in result.stderr
    assert key.rpartition("\n")[2] not in result.output


def test_a_key_file_is_read(certctl: Certctl, double: Double, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n", encoding="utf-8")
    assert certctl("status", "--api-key-file", str(path), CERTCTL_API_KEY="").exit_code == 0
    assert double.asked[-1].authorization == f"Bearer {KEY}"
    path.write_bytes(b"\xff\xfe")
    assert certctl("status", "--api-key-file", str(path)).exit_code == 2
