"""What the Postfix connector describes; a real Postfix is played in tests/journeys."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.targets import registry
from connectors.targets.base import Service, StagedCheck
from connectors.targets.postfix import PostfixConfig, PostfixTarget
from core.errors import InvalidInput, Misconfigured, Refused
from tests.connectors.targets.trying import MATERIAL, Runner, staged_pairs

SERVICE = Service(name="mx", type="postfix", binary="/opt/postfix", config="/opt/etc")


def test_the_one_file_begins_with_the_key() -> None:
    """Postfix takes no certificate whose key comes behind it in smtpd_tls_chain_files."""
    (file,) = PostfixTarget().files(PostfixConfig(cert_path="/srv/mail.pem"), MATERIAL)
    assert (file.role, file.content.reveal()) == ("combined", b"KEY\nLEAF\nCHAIN\n")


def test_two_files_hold_what_their_parameters_name() -> None:
    config = PostfixConfig(cert_path="/srv/mail.pem", key_path="/srv/mail.key", layout="current")
    files = {file.role: file.content.reveal() for file in PostfixTarget().files(config, MATERIAL)}
    assert files == {"certificate": b"LEAF\nCHAIN\n", "key": b"KEY\n"}


def test_commands_name_this_service_alone() -> None:
    commands = PostfixTarget().commands(SERVICE)
    assert commands.check is not None
    assert commands.reload is not None
    assert commands.check.argv == ("/opt/postfix", "-c", "/opt/etc", "check")
    assert commands.reload.argv == ("/opt/postfix", "-c", "/opt/etc", "reload")


def test_an_absent_postfix_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.targets.postfix.BINARIES", ("/nowhere/postfix",))
    with pytest.raises(Misconfigured, match=r"set binary in \[services.postfix\]"):
        PostfixTarget().commands(Service(name="postfix", type="postfix"))


@pytest.mark.parametrize("path", ["/srv/a b.pem", "/srv/a,b.pem", "/srv/$x.pem"])
def test_what_postfix_would_interpret_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"^cert_path: holds .*, which Postfix would interpret"):
        PostfixConfig(cert_path=path)


def test_the_probe_asks_smtp_for_starttls_unless_told_otherwise() -> None:
    def probe(**fields: object) -> tuple[int, str]:
        config = registry.decode_config("postfix", {"cert_path": "/srv/mail.pem", "probe": fields})
        assert config.probe is not None
        return config.probe.port, config.probe.protocol

    assert probe(timeout_s=5) == (25, "smtp")
    assert probe(port=465, protocol="tls") == (465, "tls")
    with pytest.raises(InvalidInput) as refused:
        probe(protocol="gopher")
    assert refused.value.errors[0].field == "config.probe.protocol"


@pytest.mark.anyio
async def test_pairs_are_loaded_as_postfix_would(tmp_path: Path) -> None:
    pairs = staged_pairs(tmp_path)
    right = [pairs["combined"], pairs["apart"]]
    assert await PostfixTarget().staged_check(SERVICE, right, tmp_path, Runner()) == StagedCheck({}, None)
    with pytest.raises(Refused, match=r"^mx cannot load the new files: OpenSSL says key values mismatch"):
        await PostfixTarget().staged_check(SERVICE, [*right, pairs["wrong"]], tmp_path, Runner())
