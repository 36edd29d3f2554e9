"""What people and machines see: tables and fields for the former, JSON documents for the latter.

Text from the server is cleaned of whatever a terminal would obey. Without a terminal everything is plain, whole and
unwrapped, so that it can be searched; rich is loaded only for a terminal.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from console.errors import exit_code, problem_type
from core.errors import CertctlError

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"": "", "good": "green", "warn": "yellow", "bad": "bold red", "dim": "dim", "head": "bold"}
_ESCAPED = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_GAP = "  "
_MOST_IN_A_CELL = 120
_LEAST_TO_FOLD = 24


@dataclass(frozen=True)
class Cell:
    """A text with its tone: good, warn, bad, dim or none."""

    text: str
    tone: str = ""


Value = str | Cell


def clean(text: str, *, lines: bool = False) -> str:
    """Return ``text`` without control and direction characters; line ends become spaces unless ``lines``."""
    kept = text.replace("\r\n", "\n").replace("\t", " ")
    kept = kept if lines else kept.replace("\n", " ")
    return "".join(c for c in kept if c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"})


def shorten(text: str) -> str:
    """Return a text for a row of a table; the whole is in the thing's own page."""
    plain = clean(text)
    return plain if len(plain) <= _MOST_IN_A_CELL else f"{plain[: _MOST_IN_A_CELL - 1].rstrip()}…"


def width_of(text: str) -> int:
    """Return how many columns a cleaned text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in {"W", "F"} else 1 for c in text
    )


class Output:
    """Writes results to standard output, and everything said about them to standard error."""

    def __init__(self, *, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def json(self, document: bytes) -> None:
        """Write one JSON document, indented; what JSON allows and terminals obey is escaped."""
        text = msgspec.json.format(document, indent=2).decode()
        self._out.write(_ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")

    def text(self, document: str) -> None:
        """Write a document as it is, but for what terminals obey."""
        self._out.write(clean(document, lines=True))
        self._out.flush()

    def line(self, text: Value = "") -> None:
        """Write one line, at once."""
        self._write(self._out, text if isinstance(text, Cell) else Cell(text))

    def data(self, content: bytes) -> None:
        """Write a file's content as it is."""
        self._out.flush()
        self._out.buffer.write(content)
        self._out.buffer.flush()

    def note(self, text: str) -> None:
        """Say something to the person that is not part of the result."""
        if not self.as_json:
            self._write(self._err, Cell(text, "dim"))

    def error(self, error: CertctlError) -> None:
        """Say why the command ends."""
        if self.as_json:
            fields = [{"field": entry.field, "problem": entry.problem} for entry in error.errors]
            document: dict[str, Any] = {"type": problem_type(error), "title": error.title, "detail": error.detail}
            document |= {"exit_code": int(exit_code(error)), "errors": fields}
            self._err.write(json.dumps(document) + "\n")
            return
        self._write(self._err, Cell(f"certctl: {error.detail}", "bad"), lines=True)
        for entry in error.errors:
            if entry.problem not in error.detail:
                self._write(self._err, Cell(f"  {entry.field}: {entry.problem}"))

    def paragraph(self, text: str, tone: str = "", *, indent: str = "") -> None:
        """Write a text of several lines, each indented but the first."""
        for place, part in enumerate(text.splitlines()):
            self.line(Cell(part if place == 0 else f"{indent}{part}", tone))

    def heading(self, text: str) -> None:
        """Write a heading, with an empty line above."""
        self.line()
        self.line(Cell(text, "head"))

    def fields(self, pairs: Iterable[tuple[str, Value]], *, indent: str = "") -> None:
        """Write names and values, aligned; pairs without a value are left out."""
        shown = [(name, value if isinstance(value, Cell) else Cell(value)) for name, value in pairs]
        shown = [(name, value) for name, value in shown if value.text]
        widest = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line(Cell(f"{indent}{name:<{widest}}{_GAP}{value.text}", value.tone))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> None:
        """Write a table; columns that are empty in every row are left out."""
        cells = [[_cleaned(value) for value in row] for row in rows]
        used = [place for place in range(len(columns)) if any(row[place].text for row in cells)]
        names = [columns[place] for place in used]
        kept = [[row[place] for place in used] for row in cells]
        if self._out.isatty():
            _rich_table(_console(self._out), names, kept)
            return
        widths = [max(width_of(text) for text in column) for column in zip(names, *_texts(kept), strict=True)]
        for row in [names, *_texts(kept)]:
            padded = (text + " " * (wide - width_of(text)) for text, wide in zip(row, widths, strict=True))
            self._out.write(_GAP.join(padded).rstrip() + "\n")

    def _write(self, stream: TextIO, cell: Cell, *, lines: bool = False) -> None:
        text = clean(cell.text, lines=lines)
        if cell.tone and stream.isatty():
            _print_styled(_console(stream), text, cell.tone)
        else:
            stream.write(text + "\n")
        stream.flush()


def _cleaned(value: Value) -> Cell:
    return Cell(clean(value.text), value.tone) if isinstance(value, Cell) else Cell(clean(value))


def _texts(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    return [[cell.text for cell in row] for row in rows]


def _console(stream: TextIO) -> Console:
    from rich.console import Console  # noqa: PLC0415 - slow to load, and of use on a terminal only

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _print_styled(console: Console, text: str, tone: str) -> None:
    from rich.text import Text  # noqa: PLC0415 - as above

    console.print(Text(text, style=_STYLES[tone]), soft_wrap=True)


def _rich_table(console: Console, names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table in colour. Only a last column folds; a row that is too wide anyway stays one line, to be copied."""
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    widths = [max(map(width_of, column)) for column in zip(names, *_texts(rows), strict=True)]
    natural, least = sum(widths) + len(_GAP) * (len(widths) - 1), sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    folds = least + _LEAST_TO_FOLD <= console.width
    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for place, name in enumerate(names):
        table.add_column(Text(name), no_wrap=not folds or place < len(names) - 1, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell.text, style=_STYLES[cell.tone]) for cell in row))
    if not folds:
        console.width = max(natural, console.width)
    console.print(table)
