"""Marks in schemas: which fields hold what must not be shown or recorded.

    password: Annotated[str, msgspec.Meta(extra_json_schema=SECRET)]
    email: Annotated[str, msgspec.Meta(extra_json_schema=PERSONAL)]

A mark counts wherever it stands in a field's type (``list[Annotated[…]]``, ``Annotated[…] | None``). Forms and pages
read the same marks in the JSON schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, get_args, get_origin

import msgspec

from core.secret import STARS, Secret

SECRET: dict[str, Any] = {"secret": True}
PERSONAL: dict[str, Any] = {"personal": True}
_MARKS = ("secret", "personal")
_PLAIN = (str, int, float, bool, datetime, date, timedelta, Enum, type(None))


def without_marked(value: object) -> object:
    """Return a struct, a plain value or a list of such with stars for whatever is marked, or is a ``Secret``.

    Stars stand as well for what has no schema of its own, a field of the type ``Any`` for instance: nobody can say
    what it holds. Raises ``TypeError`` for a value that could not be told about at all: bytes, a mapping.
    """
    match value:
        case Secret():
            return STARS
        case msgspec.Struct():
            return fields_without_marked(value)
        case list() | tuple() | set() | frozenset():
            return [without_marked(inner) for inner in value]
        case _ if isinstance(value, _PLAIN):
            return value
    message = f"a {type(value).__name__} has no schema that says what may be shown; give a struct or a plain value"
    raise TypeError(message)


def fields_without_marked(struct: msgspec.Struct) -> dict[str, object]:
    """Return the fields of a struct, as ``without_marked`` shows them."""
    return {
        told_as: STARS if is_hidden and getattr(struct, name) is not None else _shown(getattr(struct, name))
        for told_as, name, is_hidden in _fields(type(struct))
    }


@cache
def _fields(struct: type[msgspec.Struct]) -> list[tuple[str, str, bool]]:
    """Return each field's name in JSON and its own, and whether stars stand for it."""
    fields = msgspec.structs.fields(struct)
    return [(field.encode_name, field.name, _is_marked(field.type) or _is_untyped(field.type)) for field in fields]


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): without_marked(inner) for key, inner in value.items()}
    return without_marked(value)


def _is_marked(kind: object) -> bool:
    """Say whether a mark stands anywhere in a type; what is inside of a struct is the struct's own matter."""
    metas = [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    own = any((meta.extra_json_schema or {}).get(mark) for meta in metas for mark in _MARKS)
    return own or any(_is_marked(inner) for inner in get_args(kind))


def _is_untyped(kind: object) -> bool:
    bare = get_origin(kind) is None and kind in {dict, list, object}
    return kind is Any or bare or any(_is_untyped(inner) for inner in get_args(kind))
