"""Who is asked for what: every case that a client and a server can, and a selection that meets every pair.

A case is one client with one account and one certificate: which names, shown by which challenge, by an open or an
external account, and what happens to it afterwards. Two values of different columns that stand in no case of the
selection together stand in none at all.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from tests.journeys.acme import clients
from tests.journeys.acme.client import Challenge, Client, Feature, Spared


class Names(StrEnum):
    """What the certificate is for."""

    ONE = "one name"
    SEVERAL = "several names"
    WILDCARD = "wildcard"
    IP = "address"


class Account(StrEnum):
    """Whether anybody may register."""

    OPEN = "open"
    BOUND = "external account"


class Then(StrEnum):
    """What is done once the certificate is there."""

    NOTHING = "nothing more"
    RENEW = "renew"
    REVOKE = "revoke"
    KEY_CHANGE = "new account key"
    ARI = "renewal information"


_WANTS = {
    Names.SEVERAL: Feature.SEVERAL,
    Names.WILDCARD: Feature.WILDCARD,
    Names.IP: Feature.IP,
    Account.BOUND: Feature.EAB,
    Then.RENEW: Feature.RENEW,
    Then.REVOKE: Feature.REVOKE,
    Then.KEY_CHANGE: Feature.KEY_CHANGE,
    Then.ARI: Feature.ARI,
}
_SHOWN_BY = {
    Names.WILDCARD: frozenset({Challenge.DNS_01}),
    Names.IP: frozenset({Challenge.HTTP_01, Challenge.TLS_ALPN_01}),
}
"""What may show it (RFC 8555 section 7.1.3, RFC 8738 section 4); any challenge for what is not here."""


class Case(NamedTuple):
    """What one client is asked for."""

    client: type[Client]
    challenge: Challenge
    names: Names
    account: Account
    then: Then

    @property
    def title(self) -> str:
        """Return it in words."""
        return ", ".join([self.client.name, *map(str, self[1:])])

    @property
    def features(self) -> frozenset[Feature]:
        """Return what it takes."""
        return frozenset(_WANTS[value] for value in (self.names, self.account, self.then) if value in _WANTS)


def every_client() -> list[type[Client]]:
    """Return all clients that are here, sorted by the names of their modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(clients.__path__))
    found = [one for name in names for one in importlib.import_module(f"{clients.__name__}.{name}").CLIENTS]
    return [client for client in found if client.installed()]


def whole(players: Iterable[type[Client]], can: frozenset[Feature], spares: Mapping[Spared, str]) -> list[Case]:
    """Return every case that both sides can: the clients, and a server with ``can`` and ``spares``."""
    possible = [case for client in players for case in _cases(client) if _possible(case) and case.features <= can]
    return [case for case in possible if not any((case.client.name, one) in spares for one in (None, *case.features))]


def _cases(client: type[Client]) -> Iterator[Case]:
    for values in itertools.product(sorted(client.challenges), Names, Account, Then):
        yield Case(client, *values)


def _possible(case: Case) -> bool:
    shown = case.challenge in _SHOWN_BY.get(case.names, case.client.challenges)
    cannot = any((case.challenge, feature) in case.client.cannot for feature in case.features)
    return shown and not cannot and case.features <= case.client.can


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """Return a selection in which every two values stand together that do so anywhere, chosen greedily."""
    missing = set[frozenset[tuple[int, object]]]().union(*map(_pairs, cases))
    chosen = list[Case]()
    while missing:
        best = max(cases, key=lambda case: len(_pairs(case) & missing))
        chosen.append(best)
        missing -= _pairs(best)
    return sorted(chosen, key=cases.index)


def _pairs(case: Case) -> set[frozenset[tuple[int, object]]]:
    return {frozenset(pair) for pair in itertools.combinations(enumerate(case), 2)}
