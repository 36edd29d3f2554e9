"""The examples of docs/access.md, run as they stand there against a coordinator of their own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from benchmarks.lab.fleet import Coordinator
from benchmarks.lab.processes import stopped_at_the_end
from tests.coordinator.world import ENCRYPTION_KEY

PAGE = Path(__file__).parents[2] / "docs" / "access.md"


def test_the_examples_do_what_they_say(database_url: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    variables = {"CERTCTL_DATABASE_URL": database_url, "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY}
    coordinator = Coordinator(tmp_path, variables)
    with stopped_at_the_end([coordinator.process]):
        coordinator.start()
        key = (coordinator.data_dir / "admin.key").read_text().strip()
        environment = {"PATH": "/usr/bin:/bin", "URL": coordinator.url, "CA": str(coordinator.ca_path), "KEY": key}
        script = "set -eu\n" + "\necho; echo ----\n".join(blocks)
        argv = ["/bin/sh", "-c", script]
        ran = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    made, rotated, changed = ran.stdout.split("----\n")
    assert '"scope":{"teams":["team-web"],"environments":null}' in made
    assert rotated.count('"user":"web-ci"') == 2, "both values work"
    assert '"role":"viewer"' in changed
    assert changed.rstrip().endswith("this key opens nothing any more")
