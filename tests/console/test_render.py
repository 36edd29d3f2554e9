"""Terminals, pipes and machines: colour only for the first, nothing cut for the others, nothing obeyed by any."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from console import progress, times
from console.model import Step
from console.render import Cell, Output, clean, shorten
from core.errors import FieldError, InvalidInput

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_a_terminal_sees_colour_and_a_pipe_does_not(terminal: Terminal) -> None:
    for stream in (terminal, io.StringIO()):
        out = Output(out=stream, err=stream)
        out.line(Cell("served", "good"))
        out.table(("NAME", "LIFE"), [("api", Cell("expired", "bad"))])
        assert ("\x1b[" in stream.getvalue()) is stream.isatty()


def test_no_colour_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Output(out=terminal, err=terminal)
    out.table(("NAME",), [(Cell("expired", "bad"),)])
    assert "\x1b[3" not in terminal.getvalue()


def test_markup_in_a_name_is_a_name(terminal: Terminal) -> None:
    Output(out=terminal).table(("NAME",), [("[red]api[/red] :smile:",)])
    assert "[red]api[/red] :smile:" in terminal.getvalue()


def test_a_long_last_column_folds_and_the_others_stay_whole(terminal: Terminal) -> None:
    Output(out=terminal).table(("ID", "WHY"), [("mc-0123456789", "word " * 30)])
    lines = terminal.getvalue().splitlines()
    assert "mc-0123456789" in lines[1]
    assert len(lines) > 2


def test_a_row_without_room_stays_one_line(terminal: Terminal) -> None:
    row = ("a" * 40, "b" * 40, "c" * 40)
    Output(out=terminal).table(("A", "B", "C"), [row])
    assert len(terminal.getvalue().splitlines()) == 2
    assert all(cell in terminal.getvalue() for cell in row)


def test_a_pipe_sees_whole_rows_and_no_empty_columns() -> None:
    stream = io.StringIO()
    Output(out=stream).table(("ID", "WHY", "X"), [("mc-1", "word " * 60, ""), ("mc-22", "", "")])
    lines = stream.getvalue().splitlines()
    assert lines[0] == "ID     WHY"
    assert len(lines) == 3
    assert lines[1].startswith("mc-1   word word")


@pytest.mark.parametrize(
    "text,cleaned",
    [
        ("plain ümläut 証明書", "plain ümläut 証明書"),
        ("\x1b[2Jgone", "[2Jgone"),
        ("a\x9b31mb\x07", "a31mb"),
        ("one\r\ntwo\tthree\rfour", "one two threefour"),
        ("right\u202eleft\u2066", "rightleft"),
        ("\ud800", ""),
    ],
)
def test_control_characters_are_taken_out(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_json_keeps_its_meaning_without_what_terminals_obey() -> None:
    stream = io.StringIO()
    document = {"name": "a\x9b31m\u202e\x7f\x1b", "big": 2**60, "umlaut": "ü"}
    Output(out=stream).json(json.dumps(document, ensure_ascii=False).encode())
    assert json.loads(stream.getvalue()) == document
    assert not {"\x9b", "\u202e", "\x7f", "\x1b"} & set(stream.getvalue())
    assert "ü" in stream.getvalue()


def test_an_error_names_fields_that_its_sentence_does_not() -> None:
    stream = io.StringIO()
    error = InvalidInput("two are wrong", errors=(FieldError("a", "is short"), FieldError("b", "is long")))
    Output(out=stream, err=stream).error(error)
    assert stream.getvalue() == "certctl: two are wrong\n  a: is short\n  b: is long\n"


def test_a_long_cause_is_shortened_in_a_row() -> None:
    assert shorten("x" * 120) == "x" * 120
    assert shorten("x" * 121) == "x" * 119 + "…"


@pytest.mark.parametrize(
    "delta,words",
    [
        (timedelta(days=31, hours=1), "in 31 days"),
        (timedelta(days=46, hours=23, minutes=59), "in 47 days"),
        (timedelta(hours=36), "in 36 hours"),
        (timedelta(minutes=-90), "90 minutes ago"),
        (timedelta(seconds=-119), "119 seconds ago"),
        (timedelta(seconds=1), "in 1 second"),
        (timedelta(seconds=-0.4), "now"),
    ],
)
def test_times_as_people_say_them(delta: timedelta, words: str) -> None:
    assert times.relative(NOW + delta, NOW) == words
    assert times.exact(NOW + delta, NOW).endswith(f"Z ({words})")


@pytest.mark.parametrize("ms,words", [(0.04, "0.0 ms"), (9.94, "9.9 ms"), (12.4, "12 ms"), (1250, "1.25 s")])
def test_measured_durations(ms: float, words: str) -> None:
    assert times.milliseconds(ms) == words


def test_no_time_is_a_dash() -> None:
    assert times.relative(None, NOW) == times.exact(None, NOW) == "–"


def test_steps_reported_together_are_told_apart_by_their_durations() -> None:
    timeline = [
        Step(at=NOW, step="queued"),
        Step(at=NOW + timedelta(seconds=10), step="staged", ms=1000),
        Step(at=NOW + timedelta(seconds=10), step="reloaded", ms=2000),
        Step(at=NOW + timedelta(seconds=10), step="served", ms=3000),
        Step(at=NOW + timedelta(seconds=10), step="completed"),
    ]
    seconds = [(moment - NOW).total_seconds() for moment in progress.moments(timeline)]
    assert seconds == [0, 5, 7, 10, 10]


def test_steps_before_a_failure_count_on_from_the_last_mark() -> None:
    names = {"staged": 1000.0, "reloaded": 2000.0, "undone": 500.0}
    reported = [Step(at=NOW + timedelta(seconds=60), step=name, ms=ms) for name, ms in names.items()]
    timeline = [Step(at=NOW, step="delivered"), *reported, Step(at=NOW + timedelta(seconds=60), step="failed")]
    seconds = [(moment - NOW).total_seconds() for moment in progress.moments(timeline)]
    assert seconds == [0, 1, 3, 60, 60]
