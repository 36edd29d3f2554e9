"""JSON schemas of structs, with what msgspec leaves out: which texts are moments, and in OpenAPI's words, secret."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import inspect

Schema: TypeAlias = dict[str, Any]
_REF = "#/components/schemas/{name}"


def components_of(types: Iterable[Any]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """Return references to the schemas of these types, and all schemas by name."""
    ordered = list(types)
    references, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    for struct in _structs(inspect.multi_type_info(ordered), set()):
        properties = components.get(struct.cls.__name__, {}).get("properties", {})
        for field in struct.fields:
            form = _form(field.type)
            if form and field.encode_name in properties:
                _say(properties[field.encode_name], form)
    return dict(zip(ordered, references, strict=True)), {name: _marked(schema) for name, schema in components.items()}


def _structs(kinds: Iterable[inspect.Type], seen: set[type]) -> Iterator[inspect.StructType]:
    for kind in kinds:
        if isinstance(kind, inspect.StructType):
            if kind.cls in seen:
                continue
            seen.add(kind.cls)
            yield kind
            yield from _structs((field.type for field in kind.fields), seen)
        else:
            yield from _structs(_inner(kind), seen)


def _inner(kind: inspect.Type) -> Iterator[inspect.Type]:
    match kind:
        case inspect.Metadata():
            yield kind.type
        case inspect.UnionType():
            yield from kind.types
        case inspect.CollectionType():
            yield kind.item_type
        case inspect.DictType():
            yield kind.value_type


def _form(kind: inspect.Type) -> str:
    """Return the ``format`` of a text that stands for a time."""
    if isinstance(kind, inspect.UnionType | inspect.Metadata):
        return next(filter(None, map(_form, _inner(kind))), "")
    return {inspect.DateTimeType: "date-time", inspect.DateType: "date"}.get(type(kind), "")


def _say(schema: Schema, form: str) -> None:
    for part in schema.get("anyOf", [schema]):
        if part.get("type") == "string":
            part["format"] = form


def _marked(schema: Any) -> Any:
    """Return a schema in which what is secret is so in OpenAPI's own words, too."""
    if isinstance(schema, dict):
        marks = {"format": "password", "writeOnly": True} if schema.get("secret") is True else {}
        return {**{name: _marked(value) for name, value in schema.items()}, **marks}
    return [_marked(value) for value in schema] if isinstance(schema, list) else schema
