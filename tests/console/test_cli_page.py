"""The examples of docs/cli.md, run as they stand there, one after the other; its tables are those of the command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from console.declared import KINDS, kind_name
from console.errors import ExitCode
from console.main import app
from tests.console.platform import running
from tests.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.timeout(300)
def test_the_examples_do_what_they_say(postgres_server: PostgresServer, tmp_path: Path) -> None:
    blocks = re.findall(r"^```(sh|yaml)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.yaml").write_text("".join(text for kind, text in blocks if kind == "yaml"))
    script = f'set -eu\ncertctl() {{ "{sys.executable}" -m console.main "$@"; }}\n'
    script += "\necho ----\n".join(text for kind, text in blocks if kind == "sh")
    with postgres_server.fresh_database() as dsn, running(tmp_path, dsn) as platform:
        environment = {**platform.environment, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        argv = ["/bin/sh", "-c", script]
        ran = subprocess.run(
            argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
        )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    people, more, files, written = ran.stdout.split("----\n")
    assert "ada@example.org" in people
    assert "required_owner" in more
    assert "mc-www" in more
    assert files.count("+ Certificate mc-shop") == 2, "planned, then made, then nothing"
    assert written.startswith("---\nkind: Certificate\nid: mc-shop\n")
    assert "3 made, 0 changed, 0 archived" in ran.stderr
    assert ran.stderr.count("0 made, 0 changed, 0 archived") == 1


def test_the_page_names_every_group_kind_and_exit_code() -> None:
    groups = {group.name for group in app.registered_groups} - {"runs"}
    named = set(re.findall(r"`([a-z-]+)`", PAGE))
    assert groups <= named | {"operations"}, groups - named
    for resource in KINDS:
        assert f"`{kind_name(resource)}`" in PAGE
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", PAGE, flags=re.MULTILINE)}
    assert codes == {int(code) for code in ExitCode} - {ExitCode.INTERRUPTED}
