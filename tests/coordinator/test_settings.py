"""The coordinator's settings: defaults, what is refused and how that is said, what is no longer there."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.settings import load
from core.errors import Misconfigured
from core.secret import Secret

GOOD_KEY = "k" * 16


def test_the_defaults_are_those_of_the_documentation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = load({})
    assert (found.host, found.port, found.url) == ("127.0.0.1", 8443, "https://127.0.0.1:8443")
    assert (found.pki_host, found.pki_port, found.pki_url) == ("127.0.0.1", 8880, "http://127.0.0.1:8880")
    assert (found.metrics_listen, found.tls_floor) == (("127.0.0.1", 9464), "1.3")
    assert (found.database_url, found.encryption_key, found.api_keys) == (None, None, ())
    assert (found.max_body_bytes, found.lease) == (1024 * 1024, timedelta(minutes=3))
    assert (found.rate_limits, found.trusted_proxies, found.cors_origins) == ((50, 100, 50, 100), (), ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load({}).data_dir == Path("/var/lib/certctl")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert load({}).data_dir == tmp_path / "certctl"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({}).data_dir == tmp_path / ".local/share/certctl"


def test_urls_follow_the_addresses_unless_they_are_given() -> None:
    found = load({"CERTCTL_SERVER_HOST": "::1", "CERTCTL_SERVER_PORT": "443"})
    assert (found.url, found.pki_url) == ("https://[::1]:443", "http://[::1]:8880")
    assert load({"CERTCTL_PKI_PORT": "0"}).pki_url == ""
    given = load({"CERTCTL_SERVER_URL": "https://certctl.example.com/", "CERTCTL_PKI_URL": "http://pki.example.com"})
    assert (given.url, given.pki_url) == ("https://certctl.example.com", "http://pki.example.com")


BAD: dict[str, dict[str, str]] = {
    "CERTCTL_SCHEDULER_RENEWAL_CHECK_INTERVAL": {"CERTCTL_SCHEDULER_RENEWAL_CHECK_INTERVAL": "59s"},
    "CERTCTL_SCHEDULER_RETRY_INTERVAL": {"CERTCTL_SCHEDULER_RETRY_INTERVAL": "0s"},
    "CERTCTL_JOB_AWAITING_CSR_TIMEOUT": {"CERTCTL_JOB_AWAITING_CSR_TIMEOUT": "soon"},
    "CERTCTL_KEYGEN_MODE": {"CERTCTL_KEYGEN_MODE": "browser"},
    "CERTCTL_SERVER_PORT": {"CERTCTL_SERVER_PORT": "https"},
    "CERTCTL_PKI_PORT": {"CERTCTL_PKI_PORT": "65536"},
    "CERTCTL_SERVER_URL": {"CERTCTL_SERVER_URL": "http://certctl.example.com"},
    "CERTCTL_PKI_URL": {"CERTCTL_PKI_URL": "https://pki.example.com"},
    "CERTCTL_METRICS_LISTEN": {"CERTCTL_METRICS_LISTEN": "9464"},
    "CERTCTL_SERVER_TLS_MIN_VERSION": {"CERTCTL_SERVER_TLS_MIN_VERSION": "1.1"},
    "CERTCTL_LOG_LEVEL": {"CERTCTL_LOG_LEVEL": "loud"},
    "CERTCTL_LOG_FORMAT": {"CERTCTL_LOG_FORMAT": "xml"},
    "CERTCTL_MAX_BODY_SIZE": {"CERTCTL_MAX_BODY_SIZE": "1"},
    "CERTCTL_RATE_LIMIT_ENABLED": {"CERTCTL_RATE_LIMIT_ENABLED": "maybe"},
    "CERTCTL_RATE_LIMIT_RPS": {"CERTCTL_RATE_LIMIT_RPS": "0"},
    "CERTCTL_RATE_LIMIT_BURST": {"CERTCTL_RATE_LIMIT_BURST": "0"},
    "CERTCTL_RATE_LIMIT_PER_USER_RPS": {"CERTCTL_RATE_LIMIT_PER_USER_RPS": "-1"},
    "CERTCTL_RATE_LIMIT_PER_USER_BURST": {"CERTCTL_RATE_LIMIT_PER_USER_BURST": "many"},
    "CERTCTL_TRUSTED_PROXIES": {"CERTCTL_TRUSTED_PROXIES": "10.0.0.0/8, proxy.example.com"},
    "CERTCTL_CORS_ORIGINS": {"CERTCTL_CORS_ORIGINS": "ui.example.com"},
    "CERTCTL_CONFIG_ENCRYPTION_KEY": {"CERTCTL_CONFIG_ENCRYPTION_KEY": "too short"},
    "CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS": {"CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS": "too short"},
    "CERTCTL_ENROLLMENT": {"CERTCTL_ENROLLMENT": "never"},
    "CERTCTL_AUTH_TYPE": {"CERTCTL_AUTH_TYPE": "none"},
    "CERTCTL_AUTH_SECRET": {"CERTCTL_AUTH_SECRET": "x"},
    "CERTCTL_APPROVAL_BYPASS": {"CERTCTL_APPROVAL_BYPASS": "true"},
    "CERTCTL_SERVER_TLS_KEY_PATH": {"CERTCTL_SERVER_TLS_CERT_PATH": "/a"},
    "CERTCTL_SERVER_TLS_CERT_PATH": {"CERTCTL_SERVER_TLS_KEY_PATH": "/a"},
    "CERTCTL_CA_KEY_PATH": {"CERTCTL_CA_CERT_PATH": "/a"},
    "CERTCTL_CA_CERT_PATH": {"CERTCTL_CA_KEY_PATH": "/a"},
}


@pytest.mark.parametrize("variable", BAD)
def test_a_bad_value_is_told_by_its_variable(variable: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        load(BAD[variable])
    assert [error.field for error in refused.value.errors] == [variable]


PROVIDER = {
    "CERTCTL_OIDC_ISSUER": "https://id.example.com/realms/main",
    "CERTCTL_OIDC_CLIENT_ID": "certctl",
    "CERTCTL_OIDC_ROLE_MAP": "admins=admin, ops = operator",
}


def test_an_identity_provider_is_read_with_its_defaults(tmp_path: Path) -> None:
    assert load({}).oidc is None
    found = load({**PROVIDER, "CERTCTL_SERVER_URL": "https://certctl.example.com"}).oidc
    assert found is not None
    assert found.issuer == "https://id.example.com/realms/main"
    assert (found.client_secret, found.scopes, found.role_claim) == (None, ("openid", "profile", "email"), "groups")
    assert found.roles == (("admins", "admin"), ("ops", "operator"))
    assert found.redirect_url == "https://certctl.example.com/auth/oidc/callback"
    assert (found.team_claim, found.teams, found.ca_path) == ("", (), None)
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    distinguished = "cn=admins,ou=x,dc=example=admin; cn=ops,ou=x=operator"
    more = {"CERTCTL_OIDC_CLIENT_SECRET_FILE": str(secret), "CERTCTL_OIDC_ROLE_MAP": distinguished}
    found = load({**PROVIDER, **more}).oidc
    assert found is not None
    assert found.client_secret == Secret("s3cret")
    assert found.roles == (("cn=admins,ou=x,dc=example", "admin"), ("cn=ops,ou=x", "operator"))
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    "variable,given",
    [
        ("CERTCTL_OIDC_ISSUER", {"CERTCTL_OIDC_ISSUER": "http://id.example.com"}),
        ("CERTCTL_OIDC_ISSUER", {"CERTCTL_OIDC_ISSUER": "https://id.example.com/?realm=main"}),
        ("CERTCTL_OIDC_ISSUER", {"CERTCTL_OIDC_ISSUER": ""}),
        ("CERTCTL_OIDC_CLIENT_ID", {"CERTCTL_OIDC_CLIENT_ID": ""}),
        ("CERTCTL_OIDC_ROLE_MAP", {"CERTCTL_OIDC_ROLE_MAP": ""}),
        ("CERTCTL_OIDC_ROLE_MAP", {"CERTCTL_OIDC_ROLE_MAP": "admins"}),
        ("CERTCTL_OIDC_ROLE_MAP", {"CERTCTL_OIDC_ROLE_MAP": "admins=root"}),
        ("CERTCTL_OIDC_ROLE_MAP", {"CERTCTL_OIDC_ROLE_MAP": "admins=admin,=viewer"}),
        ("CERTCTL_OIDC_TEAM_CLAIM", {"CERTCTL_OIDC_TEAM_MAP": "web=team-web"}),
        ("CERTCTL_OIDC_TEAM_MAP", {"CERTCTL_OIDC_TEAM_CLAIM": "groups", "CERTCTL_OIDC_TEAM_MAP": "web"}),
        ("CERTCTL_OIDC_SCOPES", {"CERTCTL_OIDC_SCOPES": "profile email"}),
        ("CERTCTL_OIDC_REDIRECT_URL", {"CERTCTL_OIDC_REDIRECT_URL": "http://certctl.example.com/auth/oidc/callback"}),
        ("CERTCTL_OIDC_CLIENT_SECRET_FILE", {"CERTCTL_OIDC_CLIENT_SECRET_FILE": "/nowhere"}),
        ("CERTCTL_OIDC_CLIENT_SECRET_FILE", {"CERTCTL_OIDC_CLIENT_SECRET_FILE": "/dev/null"}),
        ("CERTCTL_SESSION_IDLE", {"CERTCTL_SESSION_IDLE": "1m"}),
        ("CERTCTL_SESSION_LIFETIME", {"CERTCTL_SESSION_LIFETIME": "31d"}),
    ],
)
def test_a_wrong_identity_provider_is_told_by_its_variable(variable: str, given: dict[str, str]) -> None:
    with pytest.raises(Misconfigured) as refused:
        load({**PROVIDER, **given})
    assert [error.field for error in refused.value.errors] == [variable]


@pytest.mark.parametrize("lease", ["0s", "59s", "61m", "99999999d", "soon"])
def test_a_lease_outlasts_a_poll_and_not_a_day(lease: str) -> None:
    with pytest.raises(Misconfigured, match="CERTCTL_JOB_LEASE"):
        load({"CERTCTL_JOB_LEASE": lease})


@pytest.mark.parametrize(
    "variable,remedy",
    [
        ("CERTCTL_AUTH_TYPE", "use CERTCTL_API_KEYS_NAMED=name:key:role"),
        ("CERTCTL_AUTH_SECRET", "use CERTCTL_API_KEYS_NAMED=name:key:role"),
        ("CERTCTL_APPROVAL_BYPASS", "remove it"),
    ],
)
def test_a_variable_that_is_gone_is_refused_with_the_remedy(variable: str, remedy: str) -> None:
    with pytest.raises(Misconfigured, match=remedy):
        load({variable: "x"})
    assert load({variable: ""}).warnings == ()


def test_limits_and_networks_are_read() -> None:
    more = {"CERTCTL_RATE_LIMIT_RPS": "5", "CERTCTL_RATE_LIMIT_PER_USER_BURST": "9"}
    assert load(more).rate_limits == (5, 100, 5, 9)
    assert load({**more, "CERTCTL_RATE_LIMIT_ENABLED": "false"}).rate_limits is None
    proxies = load({"CERTCTL_TRUSTED_PROXIES": "192.0.2.1, fd00::/8,"}).trusted_proxies
    assert [str(proxy) for proxy in proxies] == ["192.0.2.1/32", "fd00::/8"]


def test_both_listeners_on_one_port_are_refused_and_on_two_addresses_they_are_not() -> None:
    same = {"CERTCTL_SERVER_PORT": "8443", "CERTCTL_PKI_PORT": "8443"}
    with pytest.raises(Misconfigured, match="CERTCTL_PKI_PORT is 8443, where HTTPS listens already"):
        load(same)
    assert load({**same, "CERTCTL_PKI_HOST": "127.0.0.2"}).pki_port == 8443


def test_a_static_token_and_one_time_enrollment_exclude_each_other() -> None:
    both = {"CERTCTL_AGENT_BOOTSTRAP_TOKEN": "t0ken", "CERTCTL_ENROLLMENT": "one-time"}
    with pytest.raises(Misconfigured, match="CERTCTL_AGENT_BOOTSTRAP_TOKEN") as refused:
        load(both)
    assert "t0ken" not in refused.value.detail


def test_named_keys_are_read_with_their_roles() -> None:
    keys = load({"CERTCTL_API_KEYS_NAMED": f"ci:{GOOD_KEY}:operator, look:{GOOD_KEY}x ,"}).api_keys
    assert [(key.name, key.key.reveal(), key.role) for key in keys] == [
        ("ci", GOOD_KEY, "operator"),
        ("look", f"{GOOD_KEY}x", "viewer"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "s3cret-s3cret-s3cret",
        ":s3cret-s3cret-s3cret",
        "ci:s3cret",
        "ci:s3cret-s3cret-s3cret:root",
        "ci:half-of-a-long-key:s3cret",
        "a:s3cret-s3cret-s3cret,b:s3cret-s3cret-s3cret",
    ],
)
def test_bad_named_keys_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(Misconfigured, match="CERTCTL_API_KEYS_NAMED") as refused:
        load({"CERTCTL_API_KEYS_NAMED": text})
    assert "s3cret" not in refused.value.detail


def test_no_secret_is_seen_when_the_settings_are_printed() -> None:
    secret = "s3cret-s3cret-s3cret-s3cret-s3cret"
    names = ("CERTCTL_CONFIG_ENCRYPTION_KEY", "CERTCTL_AGENT_BOOTSTRAP_TOKEN", "CERTCTL_DATABASE_URL")
    assert "s3cret" not in repr(load({**dict.fromkeys(names, secret), "CERTCTL_API_KEYS_NAMED": f"a:{secret}"}))


@pytest.mark.parametrize(
    "text,found",
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:80", ("::1", 80)), ("off", None), ("NONE", None)],
)
def test_an_address_to_listen_on_is_read(text: str, found: tuple[str, int] | None) -> None:
    assert load({"CERTCTL_METRICS_LISTEN": text}).metrics_listen == found


def test_variables_of_other_programs_are_known_and_strangers_are_not() -> None:
    found = load({"CERTCTL_AGENT_NAME": "a", "CERTCTL_API_KEY": "b", "CERTCTL_SERVR_PORT": "1"})
    assert found.warnings == ("CERTCTL_SERVR_PORT is set, but nothing reads it; did you mean CERTCTL_SERVER_PORT?",)
