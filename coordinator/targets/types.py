"""What kinds of targets there are and what each asks for, from the connectors' own configuration structs."""

from __future__ import annotations

from typing import Any

import msgspec

from connectors.targets import registry
from core import marking
from core.errors import InvalidInput, Misconfigured, NotFound


class TargetType(msgspec.Struct):
    """A kind of target. ``schema`` is the JSON schema of its ``config``; ``secret_fields`` are paths into that.

    ``problem`` says why a connector cannot be used here, though it is installed; it has no schema then.
    """

    type: str
    description: str = ""
    secret_fields: list[str] = []
    schema: dict[str, Any] = {}
    problem: str = ""


class TargetTypes(msgspec.Struct):
    """All kinds of targets."""

    data: list[TargetType]
    total: int


def every() -> TargetTypes:
    """Return all kinds, in the order of their names."""
    found = [_described(name) for name in registry.known_types()]
    return TargetTypes(found, len(found))


def one(name: str) -> TargetType:
    """Return one kind; raise ``NotFound``."""
    try:
        registry.find(name)
    except InvalidInput as error:
        raise NotFound(error.detail) from error
    except Misconfigured:
        pass  # told by its description
    return _described(name)


def _described(name: str) -> TargetType:
    try:
        config_type = registry.find(name).config_type
    except Misconfigured as error:
        return TargetType(name, problem=error.detail)
    assert issubclass(config_type, msgspec.Struct)  # noqa: S101 - a connector's contract
    description = (config_type.__doc__ or "").strip().partition("\n")[0]
    return TargetType(name, description, list(marking.secret_fields(config_type)), marking.schema(config_type))
