"""Where the coordinator is and as whom to speak; above all, to whom a local key is never sent."""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path

import pytest
import trustme

from console import settings
from console.settings import Options, Settings
from core.errors import InvalidInput, Misconfigured
from tests.console.conftest import Certctl
from tests.console.double import KEY, Double

REMOTE = "https://certctl.example.com:8443"


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Path:
    """The data folder of a coordinator on this host."""
    data = tmp_path / "data"
    (data / "tls").mkdir(parents=True)
    (data / "admin.key").write_text(f"{KEY}\n", encoding="utf-8")
    authority.cert_pem.write_to_path(data / "tls" / "ca.crt")
    return data


def load(folder: Path, **variables: str) -> Settings:
    return settings.load(Options(), {"CERTCTL_DATA_DIR": str(folder), **variables})


def key_of(found: Settings) -> str | None:
    return found.api_key.reveal() if found.api_key else None


def test_on_the_coordinators_host_nothing_need_be_set(certctl: Certctl, double: Double, folder: Path) -> None:
    unset = {"CERTCTL_API_KEY": "", "CERTCTL_SERVER_CA_BUNDLE_PATH": "", "CERTCTL_DATA_DIR": str(folder)}
    assert certctl("status", **unset).exit_code == 0
    assert double.asked[-1].authorization == f"Bearer {KEY}"


def test_the_default_is_a_coordinator_on_this_host(folder: Path) -> None:
    found = load(folder)
    assert (found.url, key_of(found), found.ca_bundle) == ("https://127.0.0.1:8443", KEY, folder / "tls" / "ca.crt")


def test_what_is_set_wins(folder: Path) -> None:
    found = load(folder, CERTCTL_API_KEY="another-key", CERTCTL_SERVER_CA_BUNDLE_PATH="/etc/root.pem")
    assert (key_of(found), found.ca_bundle) == ("another-key", Path("/etc/root.pem"))
    given = settings.load(Options(server=REMOTE, ca_bundle="/etc/a.pem"), {"CERTCTL_SERVER_URL": "https://x"})
    assert (given.url, given.ca_bundle) == (REMOTE, Path("/etc/a.pem"))


def test_a_local_key_goes_to_a_public_address_only_under_the_local_root(folder: Path) -> None:
    found = load(folder, CERTCTL_SERVER_URL=REMOTE)
    assert (key_of(found), found.ca_bundle) == (KEY, folder / "tls" / "ca.crt")


@pytest.mark.parametrize(
    "variables", [{"CERTCTL_SERVER_CA_BUNDLE_PATH": "/etc/root.pem"}, {"CERTCTL_SERVER_CA_SHA256": "ab" * 32}]
)
def test_a_local_key_is_not_sent_to_another_server(folder: Path, variables: dict[str, str]) -> None:
    assert load(folder, CERTCTL_SERVER_URL=REMOTE, **variables).api_key is None


def test_a_local_key_is_not_sent_to_another_server_when_the_root_is_missing(folder: Path) -> None:
    (folder / "tls" / "ca.crt").unlink()
    assert load(folder, CERTCTL_SERVER_URL=REMOTE).api_key is None
    assert key_of(load(folder)) == KEY  # over loopback; the operator's own certificate is checked by the system


def test_a_local_root_is_not_for_another_server(folder: Path) -> None:
    assert load(folder, CERTCTL_SERVER_URL=REMOTE, CERTCTL_API_KEY="another-key").ca_bundle is None
    assert load(folder, CERTCTL_API_KEY="another-key").ca_bundle == folder / "tls" / "ca.crt"


@pytest.mark.parametrize(
    "url,local",
    [
        ("https://127.0.0.1:8443", True),
        ("https://[::1]:8443", True),
        ("https://localhost", True),
        ("https://localhost.example.com", False),
        ("https://127.0.0.1.example.com", False),
        ("https://192.0.2.1", False),
    ],
)
def test_what_this_host_is(url: str, local: bool) -> None:
    assert settings.is_loopback(url) is local


def test_a_key_that_may_not_be_read_is_pointed_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = load(folder)
    assert found.api_key is None
    assert "sudo certctl" in found.key_hint


def test_a_user_keeps_data_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    key = tmp_path / "certctl" / "admin.key"
    key.parent.mkdir()
    key.write_text(KEY, encoding="utf-8")
    assert key_of(settings.load(Options(), {"XDG_DATA_HOME": str(tmp_path)})) == KEY


@pytest.mark.parametrize(
    "variables",
    [
        {"CERTCTL_SERVER_URL": "http://x"},
        {"CERTCTL_SERVER_URL": "x:8443"},
        {"CERTCTL_SERVER_URL": "https://x?y"},
        {"CERTCTL_SERVER_CA_SHA256": "abc"},
        {"CERTCTL_API_KEY": "two words"},
    ],
)
def test_a_wrong_variable_is_named(folder: Path, variables: dict[str, str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(folder, **variables)
    assert caught.value.errors[0].field in variables


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(InvalidInput, match="--server"):
        settings.load(Options(server="x"), {})


def test_a_key_never_prints(folder: Path) -> None:
    assert KEY not in repr(load(folder))


def pinned(double: Double, authority: trustme.CA, **variables: str) -> dict[str, str]:
    double.on("GET", "/api/v1/server-root", authority.cert_pem.bytes())
    der = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    sha256 = hashlib.sha256(der).hexdigest().upper()
    return {"CERTCTL_SERVER_CA_BUNDLE_PATH": "", "CERTCTL_SERVER_CA_SHA256": sha256, **variables}


def test_a_root_is_pinned_by_its_fingerprint(certctl: Certctl, double: Double, authority: trustme.CA) -> None:
    assert certctl("status", **pinned(double, authority)).exit_code == 0
    first = double.asked[0]
    assert (first.path, first.authorization) == ("/api/v1/server-root", "")


def test_another_root_is_refused_before_the_key_is_sent(
    certctl: Certctl, double: Double, authority: trustme.CA
) -> None:
    result = certctl("status", **pinned(double, authority, CERTCTL_SERVER_CA_SHA256="ab" * 32))
    assert result.exit_code == 3
    assert {asked.authorization for asked in double.asked} == {""}


def test_a_root_that_did_not_sign_the_server_is_refused(certctl: Certctl, double: Double) -> None:
    other = trustme.CA()
    result = certctl("status", **pinned(double, other))
    assert result.exit_code == 3
    assert {asked.authorization for asked in double.asked} == {""}


@pytest.mark.parametrize("answer,status", [(b"no certificate", 200), (b"{}", 404)])
def test_a_server_without_a_root_to_pin(
    certctl: Certctl, double: Double, authority: trustme.CA, answer: bytes, status: int
) -> None:
    variables = pinned(double, authority)
    double.on("GET", "/api/v1/server-root", answer, status=status)
    assert certctl("status", **variables).exit_code == 3


def test_nobody_to_ask_for_the_root(certctl: Certctl, double: Double, authority: trustme.CA) -> None:
    double.stop()
    assert certctl("status", **pinned(double, authority)).exit_code == 3
