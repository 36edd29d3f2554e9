"""The demo, from a checkout in an awkward place: as root, and as an ordinary user who owns nothing else.

Both run at the same time, because each has to wait until a certificate of two minutes falls due.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.lab.processes import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]
ROWS = 13
ACME_CLIENTS = {"certbot, by ACME", "a small ACME client, by ACME"}
DEADLINE_S = 400
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".cache", ".*_cache", ".hypothesis", "__pycache__", "node_modules")
PLAIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
USABLE = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
ROW = re.compile(
    r"^(?P<name>\S+\.example\.test) +\d+ (?:d|h|min) (?P<serial>[0-9a-f]{16,40}) +(?P<sha256>[0-9a-f]{64}) +"
    r"(?P<seconds>\d+\.\d\d)  (?P<how>\S.*)$",
    re.MULTILINE,
)


@dataclass
class Showing:
    """One run of the demo in a checkout of its own."""

    checkout: Path
    process: subprocess.Popen[str]

    def is_as_promised(self) -> None:
        """Exit code 0, a full table, and nothing left behind."""
        said, _ = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, said
        rows = list(ROW.finditer(said))
        assert len(rows) == ROWS, said
        assert len({row["serial"] for row in rows}) == len({row["sha256"] for row in rows}) == ROWS
        how = {row["how"] for row in rows}
        assert len(how & ACME_CLIENTS) == 1
        assert how - ACME_CLIENTS == {
            "issued",
            "renewed on demand",
            "retried after repair",
            "renewed by itself",
        }
        assert max(float(row["seconds"]) for row in rows) < 60
        assert _processes_of(self.checkout) == []
        assert list((self.checkout / ".cache").iterdir()) == []


def _processes_of(folder: Path) -> list[str]:
    """Name the processes whose command line, environment or working folder mentions ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                about += os.fsencode((entry / "cwd").readlink())
                if os.fsencode(folder) in about:
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()!r}")
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may pass through, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="certctl-demo-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _copy(checkout: Path) -> Path:
    shutil.copytree(REPOSITORY, checkout, symlinks=True, ignore=NOT_COPIED)
    return checkout


def _as_root(place: Path) -> Showing:
    """With this environment's Python, in a checkout whose path is 120 characters long."""
    checkout = _copy(place / ("d" * (119 - len(str(place)))))
    assert len(str(checkout)) == 120
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    return _start([sys.executable, "-m", "benchmarks.demo", "--once"], checkout, environment)


def _as_an_ordinary_user(place: Path) -> Showing:
    """With ``make demo ONCE=1``, which sets the checkout up first, in a path with a space."""
    home, checkout = place / "home", _copy(place / "with a space")
    home.mkdir()
    prefix: list[str] = []
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        prefix = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--"]
        subprocess.run(["chown", "-R", f"{nobody.pw_uid}:{nobody.pw_gid}", checkout, home], check=True)
    # What this host needs to reach its package index stays; what belongs to the user who runs the tests does not.
    own = ("HOME", "PATH", "PY", "TMPDIR", "UV_", "VIRTUAL_ENV", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {"PATH": PLAIN_PATH, "HOME": str(home)}
    if subprocess.run([*prefix, "python3", "-c", USABLE], env=environment, check=False).returncode != 0:
        pytest.skip("needs an ordinary user who has a Python with venv")
    return _start([*prefix, "make", "--silent", "demo", "ONCE=1"], checkout, environment)


def _start(argv: list[str], checkout: Path, environment: dict[str, str]) -> Showing:
    # Piped, as in CI: nothing may depend on a terminal.
    process = subprocess.Popen(
        argv, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return Showing(checkout, process)


def test_the_demo_shows_everything_and_leaves_nothing(place: Path) -> None:
    """Thirteen certificates served, renewed and repaired; every process and folder gone in the end."""
    showings = [_as_an_ordinary_user(place)]
    try:
        if os.geteuid() == 0:
            showings.append(_as_root(place))
        for showing in showings:
            showing.is_as_promised()
    finally:
        for showing in showings:
            showing.process.terminate()
            showing.process.communicate()
