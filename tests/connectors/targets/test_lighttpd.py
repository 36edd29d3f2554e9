"""What the lighttpd connector describes, and that a real lighttpd understands its trial configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from connectors.targets.base import Service
from connectors.targets.lighttpd import LighttpdConfig, LighttpdTarget
from core.errors import Misconfigured
from tests.connectors.targets.trying import MATERIAL, staged_pairs, trial

SERVICE = Service(name="lighttpd", type="lighttpd", binary="/usr/sbin/lighttpd", config="/srv/l.conf", pid_file="/p")


def test_the_certificate_file_holds_the_chain_too() -> None:
    config = LighttpdConfig(cert_path="/srv/a.crt", key_path="/srv/a.key")
    contents = {spec.role: spec.content.reveal() for spec in LighttpdTarget().files(config, MATERIAL)}
    assert contents == {"certificate": b"LEAF\nCHAIN\n", "key": b"KEY\n"}


def test_commands_name_this_service_alone() -> None:
    commands = LighttpdTarget().commands(SERVICE)
    assert commands.check is not None
    assert commands.check.argv == ("/usr/sbin/lighttpd", "-tt", "-f", "/srv/l.conf")
    assert commands.reload is not None
    assert commands.reload.argv == ("/usr/bin/pkill", "-USR1", "-F", "/p", "lighttpd")
    usual = LighttpdTarget().commands(Service(name="l", type="lighttpd", binary="/opt/l", config="/srv/l.conf")).reload
    assert usual is not None
    assert "/run/lighttpd.pid" in usual.argv


def test_an_absent_lighttpd_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.targets.lighttpd.BINARIES", ("/nowhere/lighttpd",))
    with pytest.raises(Misconfigured, match=r"set binary in \[services.lighttpd\]"):
        LighttpdTarget().commands(Service(name="lighttpd", type="lighttpd"))


@pytest.mark.parametrize("path", ['/srv/a"b.crt', "/srv/a\\b.crt", "/srv/a\nb.crt"])
def test_what_lighttpd_would_interpret_is_refused(path: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"cert_path: holds .* which lighttpd would interpret"):
        msgspec.convert({"cert_path": path, "key_path": "/srv/a.key"}, LighttpdConfig)


@pytest.mark.anyio
async def test_a_real_lighttpd_loads_the_trial_and_refuses_a_wrong_key(tmp_path: Path) -> None:
    pairs = staged_pairs(tmp_path)
    right = await trial(LighttpdTarget(), SERVICE, [pairs["apart"], pairs["combined"]], tmp_path)
    assert right.returncode == 0, right.output
    wrong = await trial(LighttpdTarget(), SERVICE, [pairs["apart"], pairs["wrong"]], tmp_path)
    assert wrong.returncode != 0
    assert "Private key does not match the certificate public key" in wrong.output
