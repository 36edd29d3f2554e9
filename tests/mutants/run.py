"""Tries a defect: a copy of what git tracks, one change in it, the tests in a process of their own.

The checkout is never touched. That the copy's packages run, and not those that the environment was made with, shows in
what Python leaves beside a module that it has imported, and is looked at after each run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mutants.defect import Defect

ROOT = Path(__file__).parents[2]
DEADLINE_S = 1800.0
_ALL_PASSED, _SOME_FAILED = 0, 1
_FAILED = re.compile(r"^FAILED (tests/.+?)(?: - .*)?$", re.MULTILINE)


class Run(NamedTuple):
    """What came of some tests: pytest's exit code, the first that failed, all that was printed."""

    status: int
    first_failed: str
    seconds: float
    output: str

    @property
    def passed(self) -> bool:
        """Say whether all of them ran and passed."""
        return self.status == _ALL_PASSED

    @property
    def noticed(self) -> bool:
        """Say whether a test failed by itself; one that could not be found, collected or set up notices nothing."""
        return self.status == _SOME_FAILED and self.first_failed != ""


def place(defect: Defect) -> str:
    """Return file and line of what is changed."""
    before, _, _ = (ROOT / defect.file).read_text(encoding="utf-8").partition(defect.old)
    return f"{defect.file}:{before.count(chr(10)) + 1}"


def broken(text: str, defect: Defect) -> str:
    """Return the file's text with the defect; raise ``ValueError`` unless its old text is there exactly once."""
    if text.count(defect.old) != 1:
        message = f"{defect.name}: its old text is {text.count(defect.old)} times in {defect.file}"
        raise ValueError(message)
    return text.replace(defect.old, defect.new)


def try_unchanged(defects: Iterable[Defect], tests: Iterable[str]) -> Run:
    """Run tests on a copy as it is."""
    with _copy() as copy:
        return _tested(copy, tests, {defect.file for defect in defects})


def try_defect(defect: Defect, tests: Iterable[str]) -> Run:
    """Run tests on a copy with the defect, up to the first that fails."""
    with _copy() as copy:
        path = copy / defect.file
        path.write_text(broken(path.read_text(encoding="utf-8"), defect), encoding="utf-8")
        return _tested(copy, tests, {defect.file})


@contextlib.contextmanager
def _copy() -> Iterator[Path]:
    """Lend a copy of the tracked files as they are now, committed or not."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60)
    with tempfile.TemporaryDirectory(prefix="certctl-mutant-") as folder:
        copy = Path(folder) / "copy"
        for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        yield copy


def _tested(copy: Path, tests: Iterable[str], imported: set[str]) -> Run:
    kept_off = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTEST_ADDOPTS"}
    environment = {name: text for name, text in os.environ.items() if name not in kept_off}
    argv = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"--basetemp={copy.parent / 'tmp'}", *tests]
    started = time.monotonic()
    done = subprocess.run(
        argv,
        cwd=copy,
        env={**environment, "PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=DEADLINE_S,
    )
    seconds = time.monotonic() - started
    failed = _FAILED.search(done.stdout)
    run = Run(done.returncode, failed[1] if failed else "", seconds, done.stdout)
    foreign = {file for file in imported if not Path(importlib.util.cache_from_source(str(copy / file))).exists()}
    if foreign and (run.passed or run.noticed):
        message = f"the tests did not import {', '.join(sorted(foreign))} of their copy:\n{run.output}"
        raise RuntimeError(message)
    return run
