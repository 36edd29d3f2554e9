"""What the Dovecot connector describes; a real Dovecot is played in tests/journeys."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.targets import registry
from connectors.targets.base import Service, StagedCheck
from connectors.targets.dovecot import DovecotConfig, DovecotTarget
from core.errors import Misconfigured, Refused
from tests.connectors.targets.trying import MATERIAL, Runner, staged_pairs

SERVICE = Service(name="mail", type="dovecot", binary="/opt/bin/doveadm", config="/opt/d.conf")


def test_certificate_and_key_are_apart() -> None:
    config = DovecotConfig(cert_path="/srv/mail.pem", key_path="/srv/mail.key")
    files = {file.role: file.content.reveal() for file in DovecotTarget().files(config, MATERIAL)}
    assert files == {"certificate": b"LEAF\nCHAIN\n", "key": b"KEY\n"}


def test_the_key_does_not_come_where_dovecot_shows_it() -> None:
    with pytest.raises(ValueError, match=r"^layout: must not be combined: Dovecot shows .*the key with it; choose"):
        DovecotConfig(cert_path="/srv/mail.pem", layout="combined")


def test_commands_name_this_service_alone() -> None:
    commands = DovecotTarget().commands(SERVICE)
    assert commands.check is not None
    assert commands.reload is not None
    assert commands.check.argv == ("/opt/bin/doveconf", "-n", "-c", "/opt/d.conf")
    assert commands.reload.argv == ("/opt/bin/doveadm", "-c", "/opt/d.conf", "reload")


def test_an_absent_dovecot_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.targets.dovecot.BINARIES", ("/nowhere/doveadm",))
    with pytest.raises(Misconfigured, match=r"set binary in \[services.dovecot\]"):
        DovecotTarget().commands(Service(name="dovecot", type="dovecot"))


@pytest.mark.parametrize("path", ["/srv/#a.pem", "/srv/$a.pem", '/srv/".pem'])
def test_what_dovecot_would_interpret_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"^key_path: holds .*, which Dovecot would interpret"):
        DovecotConfig(cert_path="/srv/mail.pem", key_path=path)


def test_the_probe_looks_at_imaps_unless_told_otherwise() -> None:
    paths = {"cert_path": "/srv/mail.pem", "key_path": "/srv/mail.key"}
    config = registry.decode_config("dovecot", paths | {"probe": {"timeout_s": 5}})
    assert config.probe is not None
    assert (config.probe.port, config.probe.protocol) == (993, "tls")


@pytest.mark.anyio
async def test_pairs_are_loaded_as_dovecot_would(tmp_path: Path) -> None:
    pairs = staged_pairs(tmp_path)
    assert await DovecotTarget().staged_check(SERVICE, [pairs["apart"]], tmp_path, Runner()) == StagedCheck({}, None)
    with pytest.raises(Refused, match=r"^mail cannot load the new files: OpenSSL says key values mismatch"):
        await DovecotTarget().staged_check(SERVICE, [pairs["wrong"]], tmp_path, Runner())
