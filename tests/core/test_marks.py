"""What a schema marks as secret or personal is never shown, wherever the mark stands."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from core.marks import PERSONAL, SECRET, without_marked
from core.secret import STARS, Secret

Password = Annotated[str, msgspec.Meta(description="A password.", extra_json_schema=SECRET)]
Mail = Annotated[str, msgspec.Meta(extra_json_schema=PERSONAL)]


class Inner(msgspec.Struct):
    user: str = "admin"
    password: Password = "planted"


class Config(msgspec.Struct):
    host: str = "web-1"
    password: Password = "planted"
    maybe: Password | None = "planted"
    several: list[Password] = msgspec.field(default_factory=lambda: ["planted"])
    by_name: dict[str, Password] = msgspec.field(default_factory=lambda: {"a": "planted"})
    whole: Annotated[Inner, msgspec.Meta(extra_json_schema=SECRET)] = msgspec.field(default_factory=Inner)
    inner: Inner = msgspec.field(default_factory=Inner)
    inners: tuple[Inner, ...] = (Inner(),)
    labels: dict[str, str] = msgspec.field(default_factory=lambda: {"team": "web"})
    mail: Mail = "planted@example.com"
    anything: dict[str, Any] = msgspec.field(default_factory=lambda: {"x": "planted"})
    bare: dict = msgspec.field(default_factory=lambda: {"x": "planted"})  # type: ignore[type-arg]
    wrapped: object = "planted"
    named: int = msgspec.field(default=1, name="renamed")
    absent: Password | None = None


def test_nothing_that_is_marked_is_shown() -> None:
    shown = without_marked(Config())
    assert "planted" not in str(shown)
    inner = {"user": "admin", "password": STARS}
    assert shown == {
        "host": "web-1",
        **dict.fromkeys(("password", "maybe", "several", "by_name", "whole"), STARS),
        "inner": inner,
        "inners": [inner],
        "labels": {"team": "web"},
        **dict.fromkeys(("mail", "anything", "bare", "wrapped"), STARS),
        "renamed": 1,
        "absent": None,
    }


def test_a_wrapped_secret_is_shown_nowhere() -> None:
    assert without_marked([Secret("planted"), "plain"]) == [STARS, "plain"]


@pytest.mark.parametrize("value", [{"password": "planted"}, b"planted", [{"a": 1}], bytearray(b"x")])
def test_what_has_no_schema_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="has no schema"):
        without_marked(value)
