"""The table of defects holds what it says, and the five that matter most are noticed."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.mutants.defect import Defect
from tests.mutants.defects import DEFECTS, LEASES
from tests.mutants.run import ROOT, Run, broken, try_defect, try_unchanged


def names(defects: list[Defect]) -> list[str]:
    return [defect.name for defect in defects]


EVERY, CORE = list(DEFECTS), [defect for defect in DEFECTS if defect.core]


def test_every_defect_has_a_name_of_its_own() -> None:
    assert len({*names(EVERY)}) == len(EVERY)
    assert len(CORE) == 5


@pytest.mark.parametrize("defect", EVERY, ids=names(EVERY))
def test_a_defect_still_applies_and_its_tests_are_there(defect: Defect) -> None:
    text = (ROOT / defect.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(broken(text, defect))) != ast.dump(ast.parse(text)), "it changes nothing"
    for test in defect.tests:
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        here = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert not function or function in here, f"{file} has no {function}"


def test_an_old_text_that_is_not_there_once_is_refused() -> None:
    for text in ("", f"{LEASES[0].old}\n{LEASES[0].old}"):
        with pytest.raises(ValueError, match=LEASES[0].name):
            broken(text, LEASES[0])


@pytest.mark.parametrize(
    "run, noticed",
    [
        (Run(0, "", 1.0, ""), False),
        (Run(1, "tests/test_a.py::test_a", 1.0, ""), True),
        (Run(1, "", 1.0, "ERROR tests/test_a.py::test_a - its fixture failed"), False),
        (Run(2, "", 1.0, "an error during collection"), False),
        (Run(4, "", 1.0, "no such test"), False),
    ],
)
def test_only_a_test_that_failed_by_itself_has_noticed(run: Run, noticed: bool) -> None:
    assert run.noticed == noticed


def test_an_unknown_name_is_told() -> None:
    argv = [sys.executable, "-m", "tests.mutants", "no-such-defect"]
    told = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "no defect is called no-such-defect" in told.stderr


FILES = "tests/agent/test_files.py::test_a_private_file_is_replaced_and_not_written_through"


@pytest.mark.slow
def test_a_copy_is_what_is_tested_and_a_run_without_it_is_refused() -> None:
    in_agent, in_coordinator = (
        next(defect for defect in DEFECTS if defect.file == file) for file in ("agent/files.py", "coordinator/files.py")
    )
    assert try_unchanged([in_agent], [FILES]).passed
    with pytest.raises(RuntimeError, match=r"did not import coordinator/files\.py"):
        try_unchanged([in_coordinator], [FILES])


@pytest.mark.slow
@pytest.mark.timeout(600)  # seconds on a quiet machine
@pytest.mark.parametrize("defect", CORE, ids=names(CORE))
def test_a_core_defect_is_noticed(defect: Defect) -> None:
    run = try_defect(defect, defect.tests)
    assert run.noticed, run.output
