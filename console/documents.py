"""YAML and JSON as people write them: plain values only, each key once, no references, with the line of what is wrong.

Of YAML's types those of JSON are read: ``no``, ``on`` and dates are texts here, as in YAML 1.2.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from core.errors import InvalidInput

MOST_BYTES = 10_000_000
_JSON_TYPES = {
    "tag:yaml.org,2002:bool": (re.compile(r"true|false"), "tf"),
    "tag:yaml.org,2002:int": (re.compile(r"-?(?:0|[1-9][0-9]*)"), "-0123456789"),
    "tag:yaml.org,2002:float": (re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"), "-0123456789"),
    "tag:yaml.org,2002:null": (re.compile(r"null|~|"), ["n", "~", ""]),
}


class Document(NamedTuple):
    """One document of a file, and where it stands, e.g. ``web.yaml:12``."""

    value: Any
    place: str


class _Loader(yaml.SafeLoader):
    """Reads what JSON could say."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # its stubs
            raise yaml.MarkedYAMLError(problem="references (*name) are not read", problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - its signature
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = "" if isinstance(key, str) else f"the key {key!r} is no text; quote it"
            problem = f"the key {key} stands twice" if not problem and key in seen else problem
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _JSON_TYPES.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern.pattern})$"), list(_first))


def read_documents(text: str, name: str) -> list[Document]:
    """Return the documents of a file; raise ``InvalidInput`` that names file and line. Empty ones are left out."""
    found, loader = list[Document](), None
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            place = f"{name}:{node.start_mark.line + 1}" if node is not None else name
            value = loader.construct_document(node)
            if value is not None:
                found.append(Document(value, place))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidInput.of("--file", f"{name}{line}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput.of("--file", f"{name}: is no YAML that can be read: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()
    return found


def read_file(name: str) -> str:
    """Return the text of a file, ``-`` for standard input; raise ``InvalidInput``."""
    try:
        content = sys.stdin.buffer.read(MOST_BYTES + 1) if name == "-" else _read(Path(name).expanduser())
        text = content.decode()
    except OSError as error:
        raise InvalidInput.of("--file", f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput.of("--file", f"{name} is not UTF-8") from error
    if len(content) > MOST_BYTES:
        raise InvalidInput.of("--file", f"{name} is larger than {MOST_BYTES} bytes; split it")
    return text


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def read_mapping(name: str) -> dict[str, Any]:
    """Return the one object that a file holds; raise ``InvalidInput``."""
    found = read_documents(read_file(name), name)
    if len(found) != 1 or not isinstance(found[0].value, dict):
        raise InvalidInput.of("--file", f"{name} does not hold one object")
    value: dict[str, Any] = found[0].value
    return value


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and quotes what any YAML would read as something else."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = value.replace("\n", "").isprintable()
    style = ("|" if "\n" in value else None) if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
for _tag, (_pattern, _first) in _JSON_TYPES.items():
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern.pattern})$"), list(_first))


def written(documents: list[dict[str, Any]]) -> str:
    """Return documents as YAML that ``read_documents`` reads."""
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=100)
    return "".join(c if c == "\n" or c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    """Return a character of a quoted text as an escape: what cannot be printed stands in no other."""
    return f"\\U{ord(character):08x}"
