# noqa: INP001 - a program that is run by its path
"""Builds an agent that needs no Python, for ``install-agent.sh --source``: ``dist/certctl-agent-….tar.gz``.

It runs where the C library is the one of this machine or newer. Connectors are found by their names, so all of them,
and what they import when they are first used, are taken along.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

import PyInstaller.__main__

ROOT = Path(__file__).resolve().parent.parent
NAME = "certctl-agent"
ENTRY = "import sys\nfrom agent.main import main\nsys.exit(main())\n"
LIBRARIES = ("kubernetes", "paramiko", "jks")
"""What connectors import when they are first used; each is taken along when it is installed."""


def main() -> int:
    """Build, and say where the archive is."""
    version = metadata.version("certctl")
    name = f"{NAME}-{version}-{platform.system().lower()}-{platform.machine()}"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "entry.py").write_text(ENTRY)
        PyInstaller.__main__.run(_arguments(work))
        built = work / "dist" / NAME
        archive = ROOT / "dist" / f"{name}.tar.gz"
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:gz") as file:
            file.add(built, f"{name}/bin")
        shutil.rmtree(built)
    sys.stdout.write(f"{archive.relative_to(ROOT)}\n")
    return 0


def _arguments(work: Path) -> list[str]:
    packages = [option for package in ("agent", "connectors", "core") for option in ("--collect-submodules", package)]
    installed = metadata.packages_distributions()
    libraries = [option for name in LIBRARIES if name in installed for option in ("--hidden-import", name)]
    return [
        "--onedir", "--noconfirm", "--log-level=ERROR", "--name", NAME, "--paths", str(ROOT),
        "--copy-metadata", "certctl", "--distpath", str(work / "dist"), "--workpath", str(work / "build"),
        "--specpath", str(work), *packages, *libraries, str(work / "entry.py"),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
