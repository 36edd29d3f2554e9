"""A host with the installers of this checkout and all the wheels that they need."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.lab.processes import REPOSITORY
from tests.installers.tree import CACHE, Tree, lent_tree


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the wheel of this checkout, and fetch what it needs: a host then installs without a network."""
    folder, kept = tmp_path_factory.mktemp("wheels"), CACHE / "wheels"
    _do(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    _do(
        sys.executable,
        "-m",
        "pip",
        "download",
        "--dest",
        folder,
        "--find-links",
        kept,
        f"{wheel}[agent,coordinator,console]",
    )
    kept.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.whl"):
        if path != wheel:
            shutil.copy(path, kept)
    return folder


@pytest.fixture
def host(tmp_path: Path, wheels: Path) -> Iterator[Tree]:
    """Lend a host that has nothing of certctl's but what is to be installed from, in /srv."""
    with lent_tree(tmp_path) as tree:
        for folder in ("installers", "systemd"):
            shutil.copytree(REPOSITORY / folder, tree.path(f"/srv/certctl/{folder}"))
        shutil.copytree(wheels, tree.path("/srv/wheels"))
        yield tree


def _do(*argv: str | Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
