"""The agent's settings: defaults, every error with its variable and remedy, all of them at once."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from agent.settings import Settings, load
from core.errors import Misconfigured

URL = {"CERTCTL_SERVER_URL": "https://certctl.example.com:8443"}
HASH = "ab" * 32


def test_defaults() -> None:
    assert load(URL) == Settings(
        server_url="https://certctl.example.com:8443",
        ca_bundle=None,
        ca_sha256="",
        name=socket.gethostname(),
        bootstrap_token=None,
        state_dir=Path("/var/lib/certctl-agent"),
        key_dir=Path("/var/lib/certctl-agent/keys"),
        listen=("127.0.0.1", 9465),
        max_parallel=4,
        drift_interval=timedelta(hours=1),
        config_path=None,
        log_level="info",
        log_format="",
    )


def test_relative_folders_are_those_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load({**URL, "CERTCTL_STATE_DIR": "state"})
    assert (loaded.state_dir, loaded.key_dir) == (tmp_path / "state", tmp_path / "state" / "keys")
    assert load({**URL, "CERTCTL_STATE_DIR": "state", "CERTCTL_KEY_DIR": "k"}).key_dir == tmp_path / "k"


def test_the_token_does_not_print() -> None:
    assert "hunter2" not in repr(load({**URL, "CERTCTL_AGENT_BOOTSTRAP_TOKEN": "hunter2"}))


@pytest.mark.parametrize(
    "text, listen",
    [("", None), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:65535", ("::1", 65535)), ("::1:80", ("::1", 80))],
)
def test_the_page_can_be_moved_and_turned_off(text: str, listen: tuple[str, int] | None) -> None:
    assert load({**URL, "CERTCTL_AGENT_LISTEN": text}).listen == listen


@pytest.mark.parametrize("text", [HASH, HASH.upper(), ":".join(["AB"] * 32)])
def test_a_hash_is_taken_as_tools_print_it(text: str) -> None:
    assert load({**URL, "CERTCTL_SERVER_CA_SHA256": text}).ca_sha256 == HASH


@pytest.mark.parametrize(
    "name, text, remedy",
    [
        ("CERTCTL_SERVER_URL", "", "is required"),
        ("CERTCTL_SERVER_URL", "http://certctl.example.com", "write an https URL"),
        ("CERTCTL_SERVER_URL", "certctl.example.com:8443", "write an https URL"),
        ("CERTCTL_SERVER_URL", "https://", "write an https URL"),
        ("CERTCTL_SERVER_URL", "https://certctl.example.com:99999", "write an https URL"),
        ("CERTCTL_SERVER_URL", "https://[::1", "write an https URL"),
        ("CERTCTL_SERVER_URL", "https://user:pw@certctl.example.com", "write an https URL"),  # pragma: allowlist secret
        ("CERTCTL_SERVER_URL", "https://certctl.example.com?x=1", "write an https URL"),
        ("CERTCTL_SERVER_CA_SHA256", "abc", "64 digits"),
        ("CERTCTL_AGENT_LISTEN", "9465", "write host:port"),
        ("CERTCTL_AGENT_LISTEN", "127.0.0.1:0", "write host:port"),
        ("CERTCTL_AGENT_LISTEN", "127.0.0.1:65536", "write host:port"),
        ("CERTCTL_AGENT_LISTEN", "127.0.0.1:²", "write host:port"),
        ("CERTCTL_MAX_PARALLEL_DEPLOYMENTS", "0", "from 1 to 64"),
        ("CERTCTL_MAX_PARALLEL_DEPLOYMENTS", "many", "from 1 to 64"),
        ("CERTCTL_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("CERTCTL_LOG_FORMAT", "xml", "text, json"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(name: str, text: str, remedy: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load({**URL, name: text})
    (error,) = caught.value.errors
    assert error.field == name
    assert remedy in error.problem


def test_two_pins_are_one_too_many() -> None:
    with pytest.raises(Misconfigured, match="CERTCTL_SERVER_CA_SHA256 and CERTCTL_SERVER_CA_BUNDLE_PATH are both set"):
        load({**URL, "CERTCTL_SERVER_CA_SHA256": HASH, "CERTCTL_SERVER_CA_BUNDLE_PATH": "/etc/ca.pem"})


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(Misconfigured) as caught:
        load({"CERTCTL_AGENT_LISTEN": "x", "CERTCTL_LOG_LEVEL": "loud"})
    assert {error.field for error in caught.value.errors} == {
        "CERTCTL_SERVER_URL",
        "CERTCTL_AGENT_LISTEN",
        "CERTCTL_LOG_LEVEL",
    }


def test_a_variable_that_nothing_reads_is_told() -> None:
    (warning,) = load(
        {**URL, "CERTCTL_AGENT_NAM": "a", "CERTCTL_API_KEY": "of the command line", "PATH": "/bin"}
    ).warnings
    assert warning == "CERTCTL_AGENT_NAM is set, but nothing reads it; did you mean CERTCTL_AGENT_NAME?"
