"""The grammar that CAA's ``issue`` and dns-persist-01 share."""

from __future__ import annotations

import time

import pytest

from connectors.validation.issue_value import IssueValue, read


@pytest.mark.parametrize(
    "text,issuer,parameters",
    [
        ("", "", ()),
        (" \t", "", ()),
        (";", "", ()),
        ("ca.test", "ca.test", ()),
        ("ca.test;", "ca.test", ()),
        ("1-a--b.test ; ", "1-a--b.test", ()),
        ("ca.test; a=b", "ca.test", (("a", "b"),)),
        ("ca.test;A = b ;c-d=;e=f=g", "ca.test", (("a", "b"), ("c-d", ""), ("e", "f=g"))),
        (";a=b", "", (("a", "b"),)),
    ],
)
def test_values(text: str, issuer: str, parameters: tuple[tuple[str, str], ...]) -> None:
    assert read(text) == IssueValue(issuer, parameters)


@pytest.mark.parametrize(
    "text",
    [
        "ca..test",
        ".test",
        "-a.test",
        "a-.test",
        "ca.test a=b",
        "ca.test; a",
        "ca.test; a=b;",
        ";;",
        "ca.test; =b",
        "ca.test; a=b c",
        "ca_.test",
        "ä.test",
        "ca.test\n",
        "ca.test; a-=b",
        "ca.test; a=ä",
        "ca.test; a=\x7f",
    ],
)
def test_what_does_not_follow_the_grammar(text: str) -> None:
    with pytest.raises(ValueError, match="grammar"):
        read(text)


@pytest.mark.parametrize(
    "text", [" " * 4000 + "!", "a" * 4000 + "!", "a-" * 2000, "a." * 2000, ";" + "a=;" * 1300 + "!", "a" * 5000]
)
def test_hostile_values_are_read_in_no_time(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match="grammar"):
        read(text)
    assert time.monotonic() - began < 1
