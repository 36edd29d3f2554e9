"""What the Apache connector describes, and how staged pairs are tried; a real Apache is played in tests/journeys."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.targets.apache import ApacheConfig, ApacheTarget
from connectors.targets.base import CommandResult, Role, Service, StagedCheck
from core.errors import Misconfigured, Refused
from tests.connectors.targets.trying import staged_pairs

SERVICE = Service(name="web", type="apache", binary="/opt/httpd", config="/opt/h.conf")


class NoRunner:
    """Runs nothing: nothing is to be run."""

    async def run(self, command: object) -> CommandResult:
        raise AssertionError(command)


def test_commands_name_this_service_alone() -> None:
    commands = ApacheTarget().commands(SERVICE)
    assert commands.check is not None
    assert commands.reload is not None
    assert commands.check.argv == ("/opt/httpd", "-f", "/opt/h.conf", "-t")
    assert commands.reload.argv == ("/opt/httpd", "-f", "/opt/h.conf", "-k", "graceful")


def test_an_absent_apache_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.targets.apache.BINARIES", ("/nowhere/httpd",))
    with pytest.raises(Misconfigured, match=r"set binary in \[services.apache\]"):
        ApacheTarget().commands(Service(name="apache", type="apache"))


@pytest.mark.parametrize("path", ["/srv/$x.pem", '/srv/".pem', "/srv/\\.pem"])
def test_what_apache_would_interpret_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"^cert_path: holds .*, which Apache would interpret"):
        ApacheConfig(cert_path=path, key_path="/srv/key.pem")


@pytest.mark.anyio
async def test_pairs_are_loaded_as_mod_ssl_would(tmp_path: Path) -> None:
    pairs, empty = staged_pairs(tmp_path), tmp_path / "empty.pem"
    empty.touch()
    right = [pairs["combined"], pairs["apart"]]
    assert await ApacheTarget().staged_check(SERVICE, right, tmp_path, NoRunner()) == StagedCheck({}, None)
    nothing: dict[Role, Path] = {"certificate": empty, "key": empty}
    for wrong, cause in ((pairs["wrong"], "key values mismatch"), (nothing, "that one of them is not pem")):
        with pytest.raises(Refused, match=f"^web cannot load the new files: OpenSSL says {cause}"):
            await ApacheTarget().staged_check(SERVICE, [*right, wrong], tmp_path, NoRunner())
