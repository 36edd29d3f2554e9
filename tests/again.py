"""Run pytest; give a few tests that failed one more chance, one after another with nothing beside them, and say which.

A busy machine can be too slow for a real program's deadline. Many failures have another cause, and so has a run that
did not come to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_MOST = 3
_LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    """Return pytest's exit code; that of the second run where there was one."""
    code = _pytest("--cache-clear", *sys.argv[1:])
    failed = (
        sorted(json.loads(_LAST_FAILED.read_text(encoding="utf-8"))) if code == pytest.ExitCode.TESTS_FAILED else []
    )
    if not 1 <= len(failed) <= _MOST:
        return code
    sys.stdout.write("".join(f"failed among all the others, and is run alone now: {each}\n" for each in failed))
    sys.stdout.flush()
    return _pytest("--numprocesses=1", *failed)


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
