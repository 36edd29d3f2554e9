"""Things as files declare them: read, held against what is there, put in an order in which they can be made.

A document has a kind, the id of a thing and a ``spec``: the fields as the API takes them. What a spec does not say is
left as it is; null brings back a field's default. Nothing here writes to the coordinator.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from console.answer import path_of
from console.documents import Document, read_documents, read_file
from console.resources import RESOURCES, Resource
from core.errors import InvalidInput, NotFound
from core.keys import KeyChoice, chosen_algorithms
from core.names import parse_name

if TYPE_CHECKING:
    from console.client import Client

Action = Literal["create", "update", "none", "archive"]
Thing = dict[str, Any]
LABEL_TAG = "certctl-apply"
"""The tag by which certificates of one set of files are known."""
SECRET = "(secret)"  # noqa: S105 - what is shown in the place of one
KINDS = sorted((each for each in RESOURCES if each.order), key=lambda each: each.order)
_SUFFIXES = {".yaml", ".yml", ".json"}
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")


@dataclass(frozen=True)
class Declared:
    """One document that was understood; ``place`` is where it stands."""

    resource: Resource
    id: str
    spec: Thing
    place: str

    @property
    def key(self) -> tuple[str, str]:
        """Return what names it."""
        return self.resource.collection, self.id


@dataclass(frozen=True)
class Difference:
    """A field that is not as it should be; ``before`` is None where there is nothing yet."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Planned:
    """What has to be done for one thing; ``etag`` is what it was when that was found out."""

    resource: Resource
    id: str
    action: Action
    differences: tuple[Difference, ...] = ()
    spec: Mapping[str, Any] | None = None
    etag: str = ""


def kind_name(resource: Resource) -> str:
    """Return a kind as documents have it, e.g. ``RenewalPolicy``."""
    return "".join(word.capitalize() for word in resource.kind.word.split())


def kind_of(name: str) -> Resource | None:
    """Return the kind with this name, written in any of the usual ways."""
    plain = re.sub("[-_ ]", "", name).lower()
    for resource in KINDS:
        if plain in {kind_name(resource).lower(), resource.collection.replace("-", "")}:
            return resource
    return None


def read(names: Iterable[str]) -> list[Declared]:
    """Return what these files and folders declare; raise ``InvalidInput`` that names file and line."""
    found = [_understood(document) for name in names for document in _documents(name)]
    places: dict[tuple[str, str], str] = {}
    for declared in found:
        first = places.setdefault(declared.key, declared.place)
        if first != declared.place:
            raise _wrong(declared.place, f"{declared.id} is declared at {first} as well")
    return found


def _documents(name: str) -> Iterator[Document]:
    path = Path(name).expanduser()
    if name == "-" or not path.is_dir():
        yield from read_documents(read_file(name), name)
        return
    for file in sorted(path.rglob("*")):
        if file.suffix in _SUFFIXES and file.is_file():
            yield from read_documents(read_file(str(file)), str(file))


def _understood(document: Document) -> Declared:
    value, place = document
    if not isinstance(value, dict):
        raise _wrong(place, "is no object with kind, id and spec")
    for name in value:
        if name not in {"kind", "id", "spec"}:
            raise _wrong(place, f"{name} is not known here; a document has kind, id and spec")
    resource = kind_of(str(value.get("kind", "")))
    if resource is None:
        raise _wrong(place, f"kind: is one of {', '.join(map(kind_name, KINDS))}")
    if not isinstance(value.get("id"), str) or not _ID.fullmatch(value["id"]):
        raise _wrong(place, f"id: is needed, for instance {resource.kind.prefix}-web")
    if not isinstance(value.get("spec"), dict):
        raise _wrong(place, "spec: is needed, with the fields of the thing")
    return Declared(resource, value["id"], value["spec"], place)


def _wrong(place: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{place}: {problem}")


class Interface:
    """What the coordinator's own description says of the bodies of each kind."""

    def __init__(self, client: Client) -> None:
        self._document = client.get("/api/v1/openapi.json", Thing).value
        self._client = client
        self._secrets: dict[str, dict[str, list[str]]] = {}

    def fields(self, resource: Resource) -> dict[str, Thing]:
        """Return the schemas of the fields that callers set, by name."""
        return {name: schema for name, schema in self._body(resource)["properties"].items() if name != "id"}

    def _body(self, resource: Resource) -> Thing:
        operation = self._document["paths"][path_of(resource.collection)]["post"]
        reference: str = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        found: Thing = self._document["components"]["schemas"][reference.rpartition("/")[2]]
        return found

    def check(self, declared: Declared) -> None:
        """Raise ``InvalidInput`` for fields that the kind does not have, and for secrets of issuers."""
        known = self.fields(declared.resource)
        for name in declared.spec:
            if name not in known:
                raise _wrong(declared.place, f"spec.{name}: there is no such field; there are {', '.join(known)}")
        if declared.resource.collection == "issuers" and (given := self.secrets(declared)):
            raise _wrong(
                declared.place, f"spec.{given[0]}: is a secret; make such an issuer with certctl issuers create"
            )

    def check_new(self, declared: Declared) -> None:
        """Raise ``InvalidInput`` when something is missing that a new thing needs."""
        for name in self._body(declared.resource).get("required", ()):
            if declared.spec.get(name) is None:
                raise _wrong(declared.place, f"spec.{name}: is needed")

    def secrets(self, declared: Declared) -> list[str]:
        """Return the paths of the secrets that a document gives."""
        resource, config = declared.resource, declared.spec.get("config")
        if resource.collection not in {"targets", "issuers"} or not isinstance(config, dict):
            return []
        if resource.types not in self._secrets:
            types = self._client.get(path_of(resource.types), Thing).value["data"]
            self._secrets[resource.types] = {each["type"]: each["secret_fields"] for each in types}
        kind = str(declared.spec.get("type", "local")).lower()
        paths = [f"config.{path}" for path in self._secrets[resource.types].get(kind, ())]
        return [path for path in paths if isinstance(_at(declared.spec, path), str)]


def _at(value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def plan(client: Client, found: Iterable[Declared], label: str = "") -> list[Planned]:
    """Return what has to be done, in an order in which it can be: what is referred to comes first."""
    interface, planned = Interface(client), list[Planned]()
    for declared in ordered(list(found)):
        interface.check(declared)
        spec = _labelled(declared, label)
        planned.append(_planned(client, interface, Declared(declared.resource, declared.id, spec, declared.place)))
    return planned


def _labelled(declared: Declared, label: str) -> Thing:
    if not label or declared.resource.collection != "certificates":
        return declared.spec
    return {**declared.spec, "tags": {**(declared.spec.get("tags") or {}), LABEL_TAG: label}}


def _planned(client: Client, interface: Interface, declared: Declared) -> Planned:
    resource, secrets = declared.resource, set(interface.secrets(declared))
    try:
        answer = client.get(path_of(resource.collection, declared.id), Thing)
    except NotFound:
        interface.check_new(declared)
        given = {name: value for name, value in declared.spec.items() if value is not None}
        fields = (Difference(name, None, _masked(value, name, secrets)) for name, value in given.items())
        return Planned(resource, declared.id, "create", tuple(fields), given)
    if answer.value.get("archived_at"):
        raise _wrong(declared.place, f"{declared.id} is archived; take it up again or choose another id")
    schemas = interface.fields(resource)
    different = [
        Difference(each.path, _masked(each.before, each.path, secrets), _masked(each.after, each.path, secrets))
        for name, wanted in declared.spec.items()
        for each in _compare(resource, answer.value, name, _default(wanted, schemas[name]))
    ]
    changed = {each.path.partition(".")[0] for each in different}
    action: Action = "update" if different else "none"
    spec = {name: value for name, value in declared.spec.items() if name in changed}
    return Planned(resource, declared.id, action, tuple(different), spec, answer.etag)


def _masked(value: Any, path: str, secrets: set[str]) -> Any:  # noqa: ANN401 - any JSON
    if path in secrets:
        return SECRET
    return (
        {key: _masked(each, f"{path}.{key}", secrets) for key, each in value.items()}
        if isinstance(value, dict)
        else value
    )


_UNSAID = object()


def _default(wanted: Any, schema: Thing) -> Any:  # noqa: ANN401 - any JSON
    """Return what a field should be: null is its default, if that is the same for everybody."""
    if wanted is not None:
        return wanted
    default = schema.get("default")
    return _UNSAID if default is None else default


def _compare(resource: Resource, there: Thing, name: str, wanted: Any) -> Iterator[Difference]:  # noqa: ANN401
    if wanted is _UNSAID:
        return
    same = _SAME.get((resource.collection, name))
    if same is None:
        yield from _differences(name, there.get(name), wanted)
    elif not same(there, wanted):
        yield Difference(name, there.get(name), wanted)


def _differences(path: str, before: Any, after: Any) -> Iterator[Difference]:  # noqa: ANN401
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in after.items():
            yield from _differences(f"{path}.{key}", before.get(key), value)
    elif before != after and not (before == {"set": True} and isinstance(after, str)):  # what is set cannot be compared
        yield Difference(path, before, after)


def _same_names(there: Thing, wanted: Any) -> bool:  # noqa: ANN401
    if not isinstance(wanted, list):
        return False
    return {_canonical(name) for name in (there["common_name"], *wanted)} == {
        _canonical(name) for name in there["sans"]
    }


def _canonical(name: object) -> str:
    try:
        return parse_name(str(name)).value
    except InvalidInput:
        return str(name)  # the API says what is wrong with it


def _same_algorithms(there: Thing, wanted: Any) -> bool:  # noqa: ANN401
    try:
        choices = msgspec.convert(wanted, tuple[KeyChoice, ...])
        return list(there["key_algorithms"]) == list(chosen_algorithms(choices, field="key_algorithms"))
    except (InvalidInput, msgspec.ValidationError):
        return False  # the API says what is wrong with it


def _same_network(there: Thing, wanted: Any) -> bool:  # noqa: ANN401
    try:
        network = str(ipaddress.ip_network(str(wanted).strip())) if wanted else ""
    except ValueError:
        return False
    return bool(there["match_ip_cidr"] == network)


_SAME: dict[tuple[str, str], Callable[[Thing, Any], bool]] = {
    ("certificates", "common_name"): lambda there, wanted: bool(there["common_name"] == _canonical(wanted)),
    ("certificates", "sans"): _same_names,
    ("certificates", "target_ids"): lambda there, wanted: sorted(there["target_ids"]) == sorted(wanted),
    ("profiles", "key_algorithms"): _same_algorithms,
    ("agent-groups", "match_ip_cidr"): _same_network,
}
"""Fields that the API keeps in a form of its own, and when that is what is wanted."""


def ordered(found: list[Declared]) -> list[Declared]:
    """Return documents so that what others refer to comes before them; raise ``InvalidInput`` for a circle."""
    by_id: dict[str, list[Declared]] = {}
    for declared in found:
        by_id.setdefault(declared.id, []).append(declared)
    places = {declared.key: place for place, declared in enumerate(found)}
    graph: TopologicalSorter[tuple[str, str]] = TopologicalSorter()
    for declared in found:
        needs = {other.key for text in _texts(declared.spec) for other in by_id.get(text, ())} - {declared.key}
        graph.add(declared.key, *(key for key in needs if _comes_before(found[places[key]], declared)))
    try:
        graph.prepare()
    except CycleError as error:
        raise InvalidInput(f"these need each other: {', '.join(key[1] for key in error.args[1])}") from error
    result = list[Declared]()
    while graph.is_active():
        ready = sorted(graph.get_ready(), key=lambda key: (found[places[key]].resource.order, places[key]))
        graph.done(*ready)
        result += (found[places[key]] for key in ready)
    return result


def _comes_before(other: Declared, declared: Declared) -> bool:
    """Say whether a mention means a reference: nothing refers to kinds that come later (a name may look like an id)."""
    return other.resource.order <= declared.resource.order


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _texts(each)
        case dict():
            for each in value.values():
                yield from _texts(each)


def superfluous(client: Client, found: Iterable[Declared], label: str) -> list[Planned]:
    """Return the certificates that carry the label of this set and are declared no more."""
    wanted = {declared.id for declared in found if declared.resource.collection == "certificates"}
    resource = next(each for each in KINDS if each.collection == "certificates")
    listing = client.collect(path_of("certificates"), {"tag": f"{LABEL_TAG}:{label}"}, limit=None)
    rows = [row for row in listing.rows(Thing) if row["id"] not in wanted]
    return [Planned(resource, row["id"], "archive", etag=f'"{row["revision"]}"') for row in rows]


def document_of(interface: Interface, resource: Resource, thing: Thing) -> Thing:
    """Return the document that declares a thing as it is; what has its default is left out."""
    spec: Thing = {}
    for name, schema in interface.fields(resource).items():
        value = thing.get(name)
        if (resource.collection, name) == ("certificates", "sans"):
            value = [each for each in thing["sans"] if each != thing["common_name"]]
        if value is not None and value != schema.get("default"):
            spec[name] = value
    return {"kind": kind_name(resource), "id": thing["id"], "spec": spec}
