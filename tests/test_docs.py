"""docs/settings.md names every variable that a program reads, under that program, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = {"Coordinator": "coordinator", "Agent": "agent", "Console": "console"}
READERS = {"choice", "duration", "integer", "path", "port", "read", "secret", "text"}
"""The methods of ``core.environment.Environment`` that read a variable."""


def variables_read(path: Path) -> set[str]:
    """Return the names that a settings module asks its environment for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS
        for name in constants(node.args[:1])
        if name.startswith("CERTCTL_")
    }


def constants(nodes: list[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def variables_documented(page: str, program: str) -> set[str]:
    """Return the names in the first column of the tables below a program's heading."""
    section = re.search(rf"^## {program}$(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert section, f"docs/settings.md has no heading {program!r}"
    return set(re.findall(r"^\| `(CERTCTL_\w+)` \|", section[1], flags=re.MULTILINE))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_settings_page_has_every_variable_of_a_program_and_no_other(program: str) -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    read = {name for path in (ROOT / PROGRAMS[program]).rglob("settings.py") for name in variables_read(path)}
    assert read, f"{program} reads no variable that this test can find"
    assert variables_documented(page, program) == read
