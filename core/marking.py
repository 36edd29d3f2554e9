"""Secrets among the fields of a configuration: which they are, taken out, put back in, hidden.

A configuration is a struct. A field that holds a secret is ``Annotated[Secret[str], SECRET]``, or with a help text
``Annotated[Secret[str], msgspec.Meta(description=…, extra_json_schema={"secret": True})]``; it is named by its path
(``login.password``). Where a configuration is shown, a secret is only said to be set; the same words in a change mean
that the stored one stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, TypeVar

import msgspec

from core import marks
from core.decoding import wrong_field
from core.errors import InvalidInput
from core.secret import STARS, Secret

C = TypeVar("C", bound=msgspec.Struct)
SECRET = msgspec.Meta(extra_json_schema=marks.SECRET)
IS_SET: dict[str, Any] = {"set": True}


@cache
def secret_fields(config_type: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the paths of the fields that hold secrets; raise ``TypeError`` for one that no path leads to."""
    return tuple(_marked(msgspec.inspect.type_info(config_type)))


def _marked(kind: msgspec.inspect.Type) -> Iterator[str]:
    match kind:
        case msgspec.inspect.StructType():
            for field in kind.fields:
                inner = field.type
                if _is_secret(inner):
                    yield field.encode_name
                else:
                    yield from (f"{field.encode_name}.{path}" for path in _marked(inner))
        case msgspec.inspect.Metadata():
            yield from _marked(kind.type)
        case msgspec.inspect.UnionType():
            yield from dict.fromkeys(path for inner in kind.types for path in _marked(inner))
        case msgspec.inspect.DictType() | msgspec.inspect.CollectionType() | msgspec.inspect.VarTupleType():
            inner_types = [getattr(kind, name) for name in ("item_type", "value_type") if hasattr(kind, name)]
            if any(_is_secret(inner) or [*_marked(inner)] for inner in inner_types):
                message = "a secret stands in a collection, where it has no path; give it a field of its own"
                raise TypeError(message)


def _is_secret(kind: msgspec.inspect.Type) -> bool:
    marks = kind.extra_json_schema if isinstance(kind, msgspec.inspect.Metadata) else None
    return bool(marks and marks.get("secret"))


def decode(config: Mapping[str, Any], config_type: type[C], root: str = "config") -> C:
    """Return ``config`` as a struct; raise ``InvalidInput`` naming the wrong field (``config.…``)."""
    try:
        return msgspec.convert(config, config_type, dec_hook=_hidden)
    except msgspec.ValidationError as error:
        wrong = wrong_field(error, root)
        raise InvalidInput.of(wrong.field, wrong.problem) from error


def _hidden(_kind: type, value: object) -> Secret[str]:
    if not isinstance(value, str):
        message = "must be text"
        raise ValueError(message)  # noqa: TRY004 - the decoder adds the path to this one
    return Secret(value)


def schema(config_type: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of a configuration, with help texts, defaults and ``secret`` marks."""
    return msgspec.json.schema(config_type, schema_hook=lambda _kind: {"type": "string"})


def taken_apart(
    config_type: type[msgspec.Struct], config: Mapping[str, Any], root: str = "config"
) -> tuple[dict[str, Any], dict[str, Secret[str] | None]]:
    """Return ``config`` without its secrets, and those by path: None for one that shall stay as it is stored.

    Raises ``InvalidInput`` for what is neither text nor ``{"set": true}``.
    """
    plain, secrets = deepcopy(dict(config)), dict[str, Secret[str] | None]()
    for path in secret_fields(config_type):
        holder, name = _place(plain, path)
        if holder is None or holder.get(name) is None:
            continue
        value = holder.pop(name)
        if value != IS_SET and not isinstance(value, str):
            raise InvalidInput.of(f"{root}.{path}", 'must be text, or {"set": true} to keep what is stored')
        secrets[path] = Secret(value) if isinstance(value, str) else None
    return plain, secrets


def put_together(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with values at paths; what a path leads through is made where it is missing."""
    whole = deepcopy(dict(plain))
    for path, value in values.items():
        *folders, name = path.split(".")
        place = whole
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return whole


def checked(config_type: type[C], plain: Mapping[str, Any], secrets: Mapping[str, Secret[str] | None]) -> C:
    """Decode what was taken apart; a secret that stays as it is stored is not known and stands there as stars."""
    values = {path: STARS if value is None else value.reveal() for path, value in secrets.items()}
    return decode(put_together(plain, values), config_type)


def shown(plain: Mapping[str, Any], paths: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that says of these paths only that they are set."""
    return put_together(plain, dict.fromkeys(paths, IS_SET))


def redacted(config_type: type[msgspec.Struct], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` as it may be shown and recorded: whatever stands in a secret field is only said to be set."""
    plain = deepcopy(dict(config))
    for path in secret_fields(config_type):
        holder, name = _place(plain, path)
        if holder is not None and holder.get(name) is not None:
            holder[name] = IS_SET
    return plain


def _place(config: dict[str, Any], path: str) -> tuple[dict[str, Any] | None, str]:
    """Return the object that a path's last name stands in, None where there is no object."""
    *folders, name = path.split(".")
    place: Any = config
    for folder in folders:
        place = place.get(folder) if isinstance(place, dict) else None
    return (place if isinstance(place, dict) else None), name
