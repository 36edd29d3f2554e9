"""What is looked at after every step: the server's documents, as certbot's library reads them, against the book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import requests
from acme import client as library
from acme import errors, messages
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis.stateful import RuleBasedStateMachine, invariant
from josepy.jwa import ES256, ES384, RS256, JWASignature
from josepy.jwk import JWK

from tests.coordinator.acme.oracle.book import (
    CONFLICT,
    INVALID,
    PENDING,
    VALID,
    Account,
    Authorization,
    Book,
    Directory,
    Order,
)
from tests.coordinator.acme.oracle.stage import BOUND, OPEN, PROVED, Stage

DIRECTORIES = [
    Directory(BOUND, bound=True, proved=False),
    Directory(OPEN, bound=False, proved=False),
    Directory(PROVED, bound=False, proved=True),
]
ALGORITHMS = {"ES256": ES256, "ES384": ES384, "RS256": RS256}


@dataclass
class Party:
    """A client with an account: the library's half, beside the book's; ``left`` are keys that it had before."""

    account: Account
    client: library.ClientV2
    resource: messages.RegistrationResource
    left: list[tuple[JWK, JWASignature]] = field(default_factory=list)
    csrs: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    leaves: dict[str, x509.Certificate] = field(default_factory=dict)
    challenges: dict[str, tuple[messages.ChallengeBody, ...]] = field(default_factory=dict)

    def post(self, url: str, message: Any = None) -> requests.Response:
        """Send a signed request; without a message it reads."""
        return self.client.net.post(url, message, new_nonce_url=self.client.directory.newNonce)


@dataclass
class Tally:
    """What a run visited."""

    examples: int = 0
    steps: int = 0
    documents: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    def table(self) -> str:
        """Return it for a person."""
        head = f"{self.examples} histories, {self.steps} steps, {self.documents} documents compared"
        return "\n".join([head, *(f"  {count:>6} {name}" for name, count in sorted(self.answers.items()))])


def refusal(call: Callable[[], Any]) -> str:
    """Do something with the library; return the name of the error that the server answered, "" for none."""
    try:
        # It sleeps before its first look at an order, and between looks.
        with patch.object(library, "time", SimpleNamespace(sleep=lambda _: None)):
            call()
    except messages.Error as error:
        told = error
    except errors.ConflictError:
        return CONFLICT
    else:
        return ""
    assert messages.is_acme_error(told), told
    assert told.detail, "no word to a person"
    return str(told.typ).removeprefix(messages.ERROR_PREFIX)


class Comparison(RuleBasedStateMachine):
    """A machine without rules; set ``stage`` and ``tally`` on a subclass."""

    stage: Stage
    tally: Tally

    def __init__(self) -> None:
        super().__init__()
        self.tally.examples += 1
        self.book = Book()
        self.parties: list[Party] = []
        self.touched: list[Party] = []
        self.posted: list[tuple[str, bytes]] = []
        self.before = self.stage.inventory()
        self.agreed = False

    def net(self, key: JWK, alg: JWASignature) -> library.ClientNetwork:
        """Return the library's network with a key, on the session that leads to the stage."""
        net = library.ClientNetwork(key, alg=alg, user_agent="oracle")
        net.session.close()
        net.session = self.stage.session
        return net

    def client(self, directory: Directory, key: JWK, alg: JWASignature) -> library.ClientV2:
        """Return the library's client of a directory, which it reads."""
        net = self.net(key, alg)
        found = library.ClientV2.get_directory(f"{self.stage.url}/acme/profile/{directory.id}/directory", net)
        assert found.meta.external_account_required is directory.bound
        return library.ClientV2(found, net)

    @invariant()
    def compare(self) -> None:
        """Check what belongs to those who did something, and the whole inventory."""
        self.tally.steps += 1
        for party in {id(each): each for each in self.touched}.values():
            self.check_account(party)
        self.touched = []
        new = {serial: revoked for serial, revoked in self.stage.inventory().items() if serial not in self.before}
        assert new == {each.serial: each.revoked for each in self.book.certificates}
        self.agreed = True

    def check_account(self, party: Party) -> None:
        account = party.account
        read: list[requests.Response] = []
        assert refusal(lambda: read.append(party.post(account.uri))) == account.may
        if not read:
            return
        shown = read[0].json()
        body = messages.Registration.from_json(shown)
        assert (str(body.status), tuple(body.contact)) == (VALID, account.contact)
        listed = party.post(shown["orders"]).json()["orders"]
        assert listed == [order.url for order in reversed(account.orders)], "orders that nobody made, or lost ones"
        for order in account.orders:
            self.check_order(party, order)
        for authorization in account.authorizations:
            self.check_authorization(party, authorization)
        self.tally.documents += 2 + len(account.orders) + len(account.authorizations)

    def check_order(self, party: Party, order: Order) -> messages.Order:
        """Read an order and hold it against the book."""
        body: messages.Order = messages.Order.from_json(party.post(order.url).json())
        assert body.status.name == order.status, f"{order}: {body}"
        assert tuple(each.value for each in body.identifiers) == order.names
        assert list(body.authorizations) == [each.url for each in order.authorizations]
        assert body.profile == party.account.directory.id
        assert (body.error is not None) == (order.status == INVALID), "an order that failed says why, no other one does"
        assert (body.certificate is not None) == (order.status == VALID)
        assert body.expires is not None
        return body

    def check_authorization(self, party: Party, authorization: Authorization) -> messages.Authorization:
        """Read an authorization and hold it against the book."""
        body: messages.Authorization = messages.Authorization.from_json(party.post(authorization.url).json())
        assert (body.status.name, body.identifier.value) == (authorization.status, authorization.name)
        assert bool(body.wildcard) == authorization.wildcard
        assert body.expires is not None
        statuses = {each.chall.typ: each.status.name for each in body.challenges if hasattr(each.chall, "token")}
        if not party.account.directory.proved:
            assert body.challenges, "it has to say how it became valid"
        elif authorization.status == PENDING:
            assert statuses == dict.fromkeys(authorization.offered, PENDING)
        else:
            assert {kind: status for kind, status in statuses.items() if status != PENDING} == authorization.tried
        for each in body.challenges:
            assert (each.error is not None) == (each.status.name == INVALID)
            assert (each.validated is not None) == (each.status.name == VALID)
        return body

    def teardown(self) -> None:
        """Look at everybody once more, unless a step has failed."""
        if not self.agreed:
            return
        self.touched = list(self.parties)
        self.compare()
