"""What can be said of installers and units without installing anything."""

from __future__ import annotations

import plistlib
import re
import subprocess
from pathlib import Path

import pytest

from agent import settings

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "installers").glob("*.sh"))
UNITS = sorted((ROOT / "systemd").glob("*.service"))
DROP_INS = sorted((ROOT / "systemd/certctl-agent.service.d").glob("*.conf"))


def said_by(*argv: str | Path) -> str:
    done = subprocess.run([*argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_plain_sh(script: Path) -> None:
    assert said_by("shellcheck", "--external-sources", "--source-path", script.parent, script) == ""
    for shell in (["dash"], ["busybox", "sh"], ["bash", "--posix"]):
        assert said_by(*shell, "-n", script) == ""


def test_units_are_known_to_systemd(tmp_path: Path) -> None:
    """With each drop-in. Only that programs are not there may be said; the exit code knows nothing of unknown keys."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text())
    for drop_in in DROP_INS:
        folder = tmp_path / "certctl-agent.service.d"
        folder.mkdir(exist_ok=True)
        (folder / drop_in.name).write_text(drop_in.read_text())
    argv = ["systemd-analyze", "verify", *(str(tmp_path / unit.name) for unit in UNITS)]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stderr.splitlines()
    assert [line for line in said if "is not executable: No such file" not in line] == []


@pytest.mark.parametrize("unit, most", [("certctl-coordinator.service", 3.0), ("certctl-agent.service", 3.5)])
def test_exposure(unit: str, most: float) -> None:
    said = said_by("systemd-analyze", "security", "--offline=true", "--no-pager", ROOT / "systemd" / unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None
    assert float(found[1]) <= most


def test_a_drop_in_for_every_target_of_the_installer() -> None:
    usage = said_by("sh", ROOT / "installers/install-agent.sh", "--help")
    (named,) = re.findall(r"between commas: ([a-z, \n]+)\.", usage)
    assert {path.stem for path in DROP_INS} == set(re.findall("[a-z]+", named))


def test_the_plist_runs_the_agent() -> None:
    plist = plistlib.loads((ROOT / "installers/launchd/io.certctl.agent.plist").read_bytes())
    assert plist["ProgramArguments"][-1].endswith("exec /opt/certctl-agent/current/bin/certctl-agent")
    assert plist["UserName"] == "certctl-agent"
    assert plist["ExitTimeOut"] >= 120


def test_the_health_of_an_agent_can_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert settings.listen_address({}) == ("127.0.0.1", 9465)
    assert settings.listen_address({"CERTCTL_AGENT_LISTEN": "[::1]:99"}) == ("::1", 99)
