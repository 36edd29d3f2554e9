"""YAML as it is read and written: JSON's values, nothing that surprises, and every fault with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.documents import read_documents, written
from core.errors import InvalidInput

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


@given(st.lists(st.dictionaries(TEXTS, VALUES, min_size=1), max_size=3))
def test_what_is_written_is_read_again(documents: list[dict[str, object]]) -> None:
    assert [document.value for document in read_documents(written(documents), "x")] == documents


def test_plain_words_are_texts() -> None:
    text = "a: no\nb: 2026-01-01\nc: 010\nd: 1.5\ne:\nf: on\ng: 1_000\nh: true\n"
    (found,) = read_documents(text, "x")
    assert found.value == {
        "a": "no",
        "b": "2026-01-01",
        "c": "010",
        "d": 1.5,
        "e": None,
        "f": "on",
        "g": "1_000",
        "h": True,
    }


def test_documents_know_their_place() -> None:
    found = read_documents("a: 1\n---\n---\n# nothing\n---\nb: 2\n", "web.yaml")
    assert [(document.value, document.place) for document in found] == [
        ({"a": 1}, "web.yaml:1"),
        ({"b": 2}, "web.yaml:6"),
    ]


@pytest.mark.parametrize(
    "text,said",
    [
        ("a: &x 1\nb: *x", "x:2: references"),
        ("a: 1\nb:\n  c: 1\n  c: 2", "x:4: the key c stands twice"),
        ("1: 2", "x:1: the key 1 is no text"),
        ("a: [1,", "x:1"),
        ("a: !!python/name:os.system", "x:1: could not determine"),
        ("a: \x01", "x: is no YAML"),
        ("[" * 5000, "x"),
    ],
)
def test_what_cannot_be_read_names_the_line(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match="--file") as caught:
        read_documents(text, "x")
    assert said in caught.value.detail
