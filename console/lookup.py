"""From what people type to the one thing they mean: an exact id first, then a name that only one thing has.

Targets are unique within their agent, so ``AGENT/TARGET`` always names one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from console.answer import Answer, Parameters, path_of
from console.model import Agent, Certificate, Issuer, Profile, Target
from core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from console.client import Client


class Named(Protocol):
    """What has an id and a name."""

    @property
    def id(self) -> str:
        """Return the id."""

    @property
    def name(self) -> str:
        """Return the name."""


N = TypeVar("N", bound=Named)
_MOST_SEARCHED = 5000
_FEW = 6
_BY_NAME = {
    "agents",
    "teams",
    "owners",
    "agent-groups",
    "profiles",
    "renewal-policies",
    "policies",
    "issuers",
    "targets",
    "api-keys",
    "acme-eab-keys",
}
"""Lists that are asked for a name."""


class Kind(NamedTuple, Generic[N]):
    """One collection of the API."""

    word: str
    collection: str
    prefix: str
    type: type[N]


CERTIFICATE = Kind("certificate", "certificates", "mc", Certificate)
AGENT = Kind("agent", "agents", "ag", Agent)
TARGET = Kind("target", "targets", "tgt", Target)
PROFILE = Kind("profile", "profiles", "prof", Profile)
ISSUER = Kind("issuer", "issuers", "iss", Issuer)


def find(client: Client, kind: Kind[N], reference: str) -> Answer[N]:
    """Return what ``reference`` means; raise ``NotFound``, or ``InvalidInput`` when it means several things."""
    if re.fullmatch(rf"{kind.prefix}-[a-z0-9-]+", reference):
        try:
            return client.get(path_of(kind.collection, reference), kind.type)
        except NotFound:
            pass  # a name may look like an id
    found = _by_name(client, kind, reference)
    if not found:
        detail = f"there is no {kind.word} with the id or name {reference!r}; see: certctl {kind.collection} list"
        raise NotFound(detail)
    if len(found) > 1:
        ids = ", ".join(answer.value.id for answer in found[:_FEW]) + (", …" if len(found) > _FEW else "")
        raise InvalidInput.of(
            kind.word, f"{reference!r} is the name of {len(found)} {kind.collection}; give an id: {ids}"
        )
    return found[0]


def find_target(client: Client, reference: str) -> Answer[Target]:
    """Return a target by its id, its name, or ``AGENT/TARGET``."""
    agent, slash, name = reference.partition("/")
    if not slash:
        return find(client, TARGET, reference)
    agent_id = find(client, AGENT, agent).value.id
    found = _search(client, TARGET, {"agent_id": agent_id}, name)
    if not found:
        detail = f"agent {agent} has no target {name!r}; see: certctl targets list --agent {agent}"
        raise NotFound(detail)
    return found[0]


def _by_name(client: Client, kind: Kind[N], name: str) -> list[Answer[N]]:
    if kind.collection in _BY_NAME:
        return _search(client, kind, {"name": name}, name)
    if kind.collection == "certificates":
        listing = client.collect(path_of(kind.collection), {"common_name": name}, limit=_FEW + 1)
        if listing.data:
            return _answers(listing.data, kind)
    return _search(client, kind, {}, name)


def _search(client: Client, kind: Kind[N], query: Parameters, name: str) -> list[Answer[N]]:
    """Look through a list for a name that the API cannot be asked for."""
    seen, found = 0, []
    for page in client.pages(path_of(kind.collection), query, limit=None):
        found += [answer for answer in _answers(page.data, kind) if answer.value.name == name]
        seen += len(page.data)
        if seen >= _MOST_SEARCHED and page.next_cursor:
            detail = f"there are too many {kind.collection} to look for the name {name!r}; give the id"
            raise InvalidInput.of(kind.word, detail)
    return found


def _answers(rows: Iterable[msgspec.Raw], kind: Kind[N]) -> list[Answer[N]]:
    return [Answer(bytes(row), msgspec.json.decode(row, type=kind.type)) for row in rows]


class Names:
    """Names of things that answers hold only ids of; an id that cannot be resolved stands for itself."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def learn(self, things: Iterable[Named]) -> None:
        """Remember names that are at hand."""
        self._known |= {thing.id: thing.name for thing in things}

    def resolve(self, kind: Kind[N], ids: Iterable[str | None]) -> None:
        """Ask for the names of ``ids``: one by one while they are few, else with one page of the list."""
        wanted = {key for key in ids if key} - self._known.keys()
        if len(wanted) > _FEW:
            page = self._client.collect(path_of(kind.collection), limit=500)
            self.learn(page.rows(kind.type))
            return
        for key in wanted:
            try:
                self.learn([self._client.get(path_of(kind.collection, key), kind.type).value])
            except NotFound:
                self._known[key] = key

    def __getitem__(self, key: str | None) -> str:
        return self._known.get(key or "", key or "")
