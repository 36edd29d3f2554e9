"""A value that must not be seen: it prints as stars wherever it is formatted, logged or shown in a traceback."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T", bound=str | bytes)

STARS = "********"


class Secret(Generic[T]):
    """Wraps a ``str`` or ``bytes``; only ``reveal()`` gives it back."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the wrapped value; the caller must not let it reach a log, an error or argv."""
        return self._value

    def __repr__(self) -> str:
        return STARS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """Refuse to travel: a pickled secret would be a secret in the open."""
        message = "a Secret cannot be pickled"
        raise TypeError(message)
