"""Rules of the tree that no linter knows: doors between rooms, sizes, links, secrets, skips."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("agent", "connectors", "console", "coordinator", "core")
TREES = (*SHIPPED, "benchmarks", "tests")
MAX_LINES = 500

ROUTE_READERS = ("coordinator.app", "coordinator.web")
"""Who may import a room's ``routes`` beside the room: what wires the rooms together, and the route table."""


def sources(*trees: str) -> list[Path]:
    return sorted(path for tree in trees for path in (ROOT / tree).rglob("*.py"))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: str, text: str, *, is_package: bool = False) -> Iterator[str]:
    """Give every module that ``text`` may import, as an absolute name.

    ``from a.b import c`` gives ``a.b.c`` too, because ``c`` may be a module.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def closed_doors(module: str, imported: Iterator[str]) -> list[str]:
    """Name what ``module`` imports through a door of another room: its ``store``, or its ``routes``."""
    crossed = []
    for name in imported:
        door = re.match(r"(coordinator\..+?)\.(store|routes)(\.|$)", name)
        if not door or is_inside(module, door[1]):
            continue
        if door[2] == "store" or not any(is_inside(module, reader) for reader in ROUTE_READERS):
            crossed.append(f"{module} imports {door[1]}.{door[2]}")
    return crossed


def is_inside(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def test_rooms_of_the_coordinator_keep_their_store_and_routes_to_themselves() -> None:
    crossed = [
        problem
        for path in sources(*SHIPPED)
        for problem in closed_doors(
            module_name(path),
            imports(module_name(path), read(path), is_package=path.name == "__init__.py"),
        )
    ]
    assert crossed == []


@pytest.mark.parametrize(
    "module,text,problems",
    [
        ("coordinator.jobs.service", "from coordinator.jobs import store", 0),
        ("coordinator.jobs.service", "from . import store", 0),
        ("coordinator.jobs.service", "from coordinator.agents import service", 0),
        ("coordinator.jobs.service", "from coordinator.agents import store", 1),
        ("coordinator.jobs.service", "from coordinator.agents.store import find", 2),
        ("coordinator.jobs.service", "from ..agents import store", 1),
        ("coordinator.jobs.service", "def late():\n import coordinator.agents.store", 1),
        ("coordinator.jobs.service", "from coordinator.agents import routes", 1),
        ("coordinator.jobs", "from coordinator.agents import store", 1),
        ("coordinator.jobs_extra.service", "from coordinator.jobs import store", 1),
        ("coordinator.app", "from coordinator.agents import routes", 0),
        ("coordinator.web.table", "from coordinator.agents import routes", 0),
        ("coordinator.app", "from coordinator.agents import store", 1),
        ("coordinator.enrollment.est.service", "from coordinator.enrollment.acme import store", 1),
        ("coordinator.enrollment.acme.orders", "from coordinator.enrollment.acme import store", 0),
    ],
)
def test_the_rule_of_doors_sees_every_way_to_import(module: str, text: str, problems: int) -> None:
    assert len(closed_doors(module, imports(module, text))) == problems


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in sources(*TREES)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_file_is_longer_than_it_can_be_read() -> None:
    lengths = {path: len(read(path).splitlines()) for path in [*sources(*TREES), *ROOT.glob("docs/**/*.md")]}
    assert {str(path): length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_relative_links_in_the_documentation_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            target, _, anchor = link.partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            path = page.parent / target if target else page
            if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Give the anchors that a forge makes of the headings of ``page``."""
    headings = re.findall(r"^#+ (.+)$", read(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_changelog_has_a_place_for_the_next_entry() -> None:
    assert re.search(r"^## \[?Unreleased\]?$", read(ROOT / "CHANGELOG.md"), flags=re.MULTILINE)


def test_a_private_key_in_a_file_is_found_by_the_secret_scan(tmp_path: Path) -> None:
    words = "PRIVATE KEY"  # apart, so that this file holds none itself
    planted = tmp_path / "settings.py"
    planted.write_text(
        f'KEY = """-----BEGIN {words}-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END {words}-----"""\n', encoding="utf-8"
    )
    clean = tmp_path / "clean.py"
    clean.write_text("KEY_PATH = 'keys/server.key'\n", encoding="utf-8")
    found = secret_scan(planted)
    assert "Private Key" in found.stdout
    assert found.returncode == 1
    assert secret_scan(clean).returncode == 0


def secret_scan(path: Path) -> subprocess.CompletedProcess[str]:
    """Scan one file as ``make secrets`` scans them all."""
    argv = [sys.executable, "-m", "detect_secrets.pre_commit_hook", "--baseline", ".secrets.baseline", str(path)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("where", ["test", "module"])
@pytest.mark.parametrize(
    "reason,environment,outcome",
    [
        ("nginx is not installed", {"CI": "true"}, "failed|error"),
        ("nginx is not installed", {}, "skipped"),
        ("needs macOS", {"CI": "true"}, "skipped"),
    ],
)
def test_a_skip_fails_in_ci_unless_its_reason_is_on_the_list(
    reason: str, environment: dict[str, str], outcome: str, where: str, tmp_path: Path
) -> None:
    skip = f"pytest.skip({reason!r}, allow_module_level=True)"
    body = f"def test_it():\n    {skip}" if where == "test" else skip
    (tmp_path / "test_skipping.py").write_text(f"import pytest\n{body}\n", encoding="utf-8")
    (tmp_path / "pytest.ini").touch()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)],
        env={**{name: value for name, value in os.environ.items() if name != "CI"}, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.fullmatch(rf"=+ 1 ({outcome}) in .*=+", result.stdout.splitlines()[-1]), result.stdout


FAILS = "def test_a(): assert not True\n"
PASSES_LATER = "import pathlib\ndef test_a(): assert pathlib.Path('b').exists()\ndef test_b(): open('b', 'w').close()\n"


@pytest.mark.parametrize(
    "module, code, again",
    [
        (PASSES_LATER, 0, True),
        (FAILS, 1, True),
        (FAILS + "def test_b(): raise KeyboardInterrupt\n", 2, False),
        ("import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_a(n): assert not True\n", 1, False),
    ],
    ids=["once", "twice", "interrupted", "many"],
)
def test_what_failed_once_gets_another_chance_and_no_more(tmp_path: Path, module: str, code: int, again: bool) -> None:
    (tmp_path / "test_it.py").write_text(module)
    argv = [sys.executable, str(ROOT / "tests/again.py"), "-q"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout
    assert ("is run alone now" in result.stdout) == again
