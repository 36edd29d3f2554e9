"""Reading ``CERTCTL_*`` variables: every error names its variable, all are told at once, strangers are warned about."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.environment import Environment, parse_duration
from core.errors import Misconfigured
from core.secret import Secret

NAME = "CERTCTL_THING"
READERS: dict[str, Callable[[Environment], Any]] = {
    "text": lambda env: env.text(NAME, "default"),
    "secret": lambda env: env.secret(NAME),
    "path": lambda env: env.path(NAME),
    "choice": lambda env: env.choice(NAME, "a", ("a", "b")),
    "integer": lambda env: env.integer(NAME, 5, 1, 10),
    "port": lambda env: env.port(NAME, 443),
    "duration": lambda env: env.duration(NAME, timedelta(hours=1)),
}


@pytest.mark.parametrize(
    "reader,text,value",
    [
        ("text", "x", "x"),
        ("secret", "x", Secret("x")),
        ("path", "/a/b", Path("/a/b")),
        ("choice", "B", "b"),
        ("integer", "10", 10),
        ("port", "0", 0),
        ("duration", "1h30m", timedelta(hours=1, minutes=30)),
    ],
)
def test_a_good_value_is_read(reader: str, text: str, value: object) -> None:
    env = Environment({NAME: f" {text} "})
    assert READERS[reader](env) == value
    assert env.finish() == ()


@pytest.mark.parametrize(
    "reader,default",
    [
        ("text", "default"),
        ("secret", None),
        ("path", None),
        ("choice", "a"),
        ("integer", 5),
        ("port", 443),
        ("duration", timedelta(hours=1)),
    ],
)
@pytest.mark.parametrize("variables", [{}, {NAME: ""}, {NAME: "  "}])
def test_an_empty_value_counts_as_unset(reader: str, default: object, variables: dict[str, str]) -> None:
    assert READERS[reader](Environment(variables)) == default


@pytest.mark.parametrize(
    "reader,text",
    [
        ("choice", "c"),
        ("integer", "0"),
        ("integer", "11"),
        ("integer", "five"),
        ("integer", "-1"),
        ("integer", "1e3"),
        ("integer", "²"),
        ("integer", "9" * 5000),
        ("port", "65536"),
        ("duration", "soon"),
        ("duration", "5"),
        ("duration", "1m1h"),
        ("duration", "-1h"),
        ("duration", "99999999999d"),
    ],
)
def test_a_bad_value_is_told_by_its_name_with_a_remedy(reader: str, text: str) -> None:
    env = Environment({NAME: text})
    READERS[reader](env)
    with pytest.raises(Misconfigured, match=rf"{NAME} .*(use (one of|a whole)|write a)") as refused:
        env.finish()
    assert [error.field for error in refused.value.errors] == [NAME]
    assert len(refused.value.detail) < 300


def test_every_error_is_told_at_once() -> None:
    env = Environment({"CERTCTL_A": "x", "CERTCTL_B": "y", "CERTCTL_OLD": "z"})
    env.port("CERTCTL_A", 1)
    env.duration("CERTCTL_B", timedelta())
    env.refuse("CERTCTL_OLD", "no longer exists: remove it")
    env.refuse("CERTCTL_OLDER", "no longer exists: remove it")
    env.problem("CERTCTL_C", "is missing")
    with pytest.raises(Misconfigured) as refused:
        env.finish()
    assert [error.field for error in refused.value.errors] == ["CERTCTL_A", "CERTCTL_B", "CERTCTL_OLD", "CERTCTL_C"]
    assert "CERTCTL_OLD no longer exists: remove it" in refused.value.detail


def test_a_variable_that_nothing_reads_is_warned_about_with_a_guess() -> None:
    env = Environment({"CERTCTL_SERVER_PROT": "1", "CERTCTL_ELSEWHERE": "1", "CERTCTL_XYZ": "1", "PATH": "/bin"})
    env.port("CERTCTL_SERVER_PORT", 1)
    assert env.finish(known=frozenset({"CERTCTL_ELSEWHERE"})) == (
        "CERTCTL_SERVER_PROT is set, but nothing reads it; did you mean CERTCTL_SERVER_PORT?",
        "CERTCTL_XYZ is set, but nothing reads it",
    )


@pytest.mark.parametrize(
    "text,seconds", [("90s", 90), ("5m", 300), ("1h30m", 5400), ("7d", 604800), ("1d2h3m4s", 93784), ("0s", 0)]
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "h5", "1.5h", "5 m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a duration like"):
        parse_duration(text)
