"""Give tests that failed in a whole run one more chance, one after another with nothing beside them, and say which."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    """Run them again; exit code 0 when all of them pass now. Many that failed are not run again."""
    failed = sorted(json.loads(_LAST_FAILED.read_text(encoding="utf-8"))) if _LAST_FAILED.exists() else []
    if not 1 <= len(failed) <= int(sys.argv[1]):
        sys.stdout.write(f"{len(failed)} tests failed; that is for somebody to look at\n")
        return 1
    sys.stdout.write("".join(f"failed among all the others, and is run alone now: {each}\n" for each in failed))
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "pytest", "--numprocesses=1", *failed], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
