"""Which crash points the source has, and which cells the matrix is made of."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[3]
Program = Literal["agent", "coordinator"]
Road = Literal["first", "renewal", "undo"]
PROGRAMS: tuple[Program, ...] = ("agent", "coordinator")
ROADS: tuple[Road, ...] = ("first", "renewal", "undo")
LAYOUTS = ("current", "combined", "separate")

AGAIN: dict[tuple[str, str], dict[str, int]] = {
    ("file.staged", "current"): {"first": 7, "renewal": 4, "undo": 4},
    ("start.file_staged", "current"): {"first": 4},
    ("deploy.beside", "current"): {"undo": 2},
    ("deploy.beside", "combined"): {"first": 2, "renewal": 2, "undo": 4},
    ("deploy.beside", "separate"): {"first": 3, "renewal": 3, "undo": 6},
    ("deploy.replaced", "separate"): {"first": 2, "renewal": 2, "undo": 2},
    ("deploy.linked", "current"): {"first": 2, "renewal": 2, "undo": 2},
    ("deploy.link_beside", "current"): {"first": 4, "undo": 2},
    ("deploy.undo_file", "current"): {"undo": 2},
    ("deploy.undo_file", "separate"): {"undo": 2},
    ("deploy.folder_made", "current"): {"first": 3},
    ("deploy.command_ended", "current"): {"first": 3, "renewal": 3, "undo": 5},
    ("deploy.command_ended", "separate"): {"first": 3, "renewal": 3, "undo": 5},
    ("lease.claimed", "current"): {"first": 2, "renewal": 2, "undo": 2},
    ("lease.claim_committed", "current"): {"first": 2, "renewal": 2, "undo": 2},
    ("lease.extended", "current"): {"first": 2, "renewal": 2, "undo": 2},
    ("work.received", "current"): {"first": 2, "renewal": 2, "undo": 2},
}
"""Points that one road passes several times, each time with something else on the disk: how often."""


class Cell(NamedTuple):
    """One point, one road, one layout; ``passing`` counts from 1."""

    point: str
    road: Road
    layout: str = "current"
    passing: int = 1

    @property
    def armed(self) -> str:
        """Return the value of ``CERTCTL_CRASH_POINT``."""
        return f"{self.point}:{self.passing}"

    def __str__(self) -> str:
        again = f":{self.passing}" if self.passing > 1 else ""
        return f"{self.point}{again}-{self.road}-{self.layout}"


def points() -> dict[str, Program]:
    """Return the name of every crash point in the source and the program that has it."""
    found: dict[str, Program] = {}
    for program in PROGRAMS:
        for path in sorted((ROOT / program).rglob("*.py")):
            for name in named(path.read_text(encoding="utf-8")):
                if found.setdefault(name, program) != program:
                    message = f"{name} is a point of both programs"
                    raise ValueError(message)
    return found


def named(source: str) -> list[str]:
    """Return the names of the points in a module; raise ``ValueError`` for a name that stands elsewhere."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash_point":
            argument = node.args[0]
            if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                message = f"line {node.lineno}: the name of a crash point is a plain text, so that it can be found"
                raise ValueError(message)
            names.append(argument.value)
    return names


def layouts(point: str) -> tuple[str, ...]:
    """Return the layouts that make a difference to a point."""
    return LAYOUTS if point.startswith("deploy.") else LAYOUTS[:1]


BESIDE = (
    *("acme.*", "ca_account.*", "ca_order.*", "challenge.*", "look.*", "certificate.enrolled", "certificate.imported"),
    *("agent.renam*", "agent.retir*", "enrollment_token.*", "target.*", "issuer.*", "operation.*"),
)
"""Points of what happens beside the certificate of a cell: they are played on one road, since all are alike to them."""


def roads(point: str) -> tuple[Road, ...]:
    """Return the roads that make a difference to a point."""
    return ROADS[:1] if any(fnmatch(point, pattern) for pattern in BESIDE) else ROADS


def cells() -> list[Cell]:
    """Return the matrix: every point, road and layout, and the further passings, in the order in which they are played.

    What follows each other in the list is played on one certificate: issued, renewed, renewed in vain.
    """
    found = []
    for point in points():
        for layout in layouts(point):
            most = AGAIN.get((point, layout), {})
            for passing in range(1, max(most.values(), default=1) + 1):
                found += [Cell(point, road, layout, passing) for road in roads(point) if passing <= most.get(road, 1)]
    return found
