"""The machine: what clients with certbot's library do, well and badly; each rule tells the server and the book.

Rules name what they act on by numbers, and which rule may come next depends on the book alone, so a history is drawn
the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from acme import crypto_util, jws, messages
from acme.challenges import KeyAuthorizationChallenge
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC, JWKRSA

from core import acme
from tests.coordinator.acme.oracle.book import CONFLICT, PENDING, VALID, Account, Binding, Certificate, Order
from tests.coordinator.acme.oracle.comparison import ALGORITHMS, DIRECTORIES, Comparison, Party, refusal
from tests.coordinator.acme.oracle.stage import URN, until

MOST_PARTIES, MOST_BINDINGS = 4, 3
NAMES = ["a.example", "b.example", "*.a.example", "c.b.example"]
NUMBERS = st.integers(0, 2**16)
DIRECTORY = st.sampled_from([0, 1, 1, 2, 2, 2])
ALGORITHM = st.sampled_from(["ES256", "ES256", "ES256", "ES384", "RS256"])
CONTACTS = st.sampled_from(["mailto:ada@example.com", "mailto:bob@example.org", "", "mailto:nobody"])
WANTED = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
CHALLENGES = st.sampled_from(["http-01", "dns-01"])
REASONS = st.sampled_from([0, 1, 3, 4, 5, 9, 2, 6])
REACHED = ["account", "order", "authorization", "finalize", "cert"]
REVOKERS = st.sampled_from(["owner", "owner", "another", "another", "its key", "a strange key"])


def new_key(alg: str) -> JWK:
    """Return an account key for an algorithm."""
    if alg == "RS256":
        return JWKRSA(key=rsa.generate_private_key(65537, 2048))
    return JWKEC(key=ec.generate_private_key(ec.SECP256R1() if alg == "ES256" else ec.SECP384R1()))


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as the library takes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def contacts(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


class Machine(Comparison):
    """Up to four accounts in three directories; ``stage`` and ``tally`` are set on a subclass."""

    def party(self, number: int) -> Party:
        return self.one(number, self.parties)

    def one(self, number: int, among: list[Party]) -> Party:
        """Return one of these, which is looked at after the step."""
        party = among[number % len(among)]
        self.touched.append(party)
        return party

    def answered(self, what: str, expected: str, call: Callable[[], Any]) -> bool:
        """Check what comes of a call; say whether it went well."""
        self.agreed = False
        found = refusal(call)
        self.posted = [*self.posted[-5:], self.stage.posted]
        assert found == expected, f"{what}: {found or 'done'} instead of {expected or 'done'}"
        self.tally.answers[f"{what} {expected}".strip()] += 1
        return not found

    @property
    def proving(self) -> list[Party]:
        """Return those that have to answer challenges."""
        return [party for party in self.parties if party.account.directory.proved]

    def order_of(self, party: Party, number: int) -> Order:
        """Return one of its orders, mostly one that is not over."""
        open_ = [order for order in party.account.orders if order.status in {PENDING, "ready"}]
        choice = open_ if open_ and number % 4 else party.account.orders
        return choice[number // 4 % len(choice)]

    # --- accounts ---------------------------------------------------------------------------------------------------

    @initialize(directory=DIRECTORY, alg=ALGORITHM, names=WANTED, kind=CHALLENGES, depth=st.integers(0, 6))
    def first(self, directory: int, alg: str, names: list[str], kind: str, depth: int) -> None:
        """Begin with two accounts: registered, with an order of the same names each, proved, issued, or revoked."""
        self.register(directory=0, alg="ES256", contact="", bound=False, number=0)
        self.bind(wildcards=True)
        self.register(directory=directory, alg=alg, contact="", bound=directory == 0, number=0)
        self.register(directory=2, alg="ES256", contact="", bound=False, number=0)
        for number, party in enumerate(self.parties if depth else []):
            self.order(number=number, names=names)
            for which in range(len(names) if depth > 1 else 0):
                pending = [each for each in party.account.authorizations if each.status == PENDING]
                if pending:
                    self.answer(number=number, which=8 * which + 1, kind=kind, prepared=True)
            if depth > 2 + number:
                self.finalize(number=number, which=1, asked="ordered")
            if depth == 5:
                self.revoke(number=0, which=0, other=1, by="another", reason=1)
        for what in REACHED if depth else []:
            self.reach_for_anothers(number=0, other=1, what=what)
        by = {3: "its key", 4: "owner", 6: "another"}.get(depth)
        if by is not None:
            self.revoke(number=0, which=0, other=1, by=by, reason=1)

    @precondition(lambda self: len(self.book.bindings) < MOST_BINDINGS)
    @rule(wildcards=st.booleans())
    def bind(self, wildcards: bool) -> None:
        """An operator makes a key of an external account."""
        self.book.bindings.append(Binding(*self.stage.bind(wildcards=wildcards), wildcards=wildcards))

    @precondition(lambda self: len(self.book.bindings) > 1)
    @rule(number=NUMBERS)
    def end_binding(self, number: int) -> None:
        """An operator switches one off."""
        if number % 4 == 0:
            binding = self.book.bindings[number // 4 % len(self.book.bindings)]
            answer = self.stage.run(self.stage.worlds[0].call("DELETE", f"/api/v1/acme-eab-keys/{binding.id}"))
            assert answer.status_code == 204
            binding.ended = True

    @precondition(lambda self: len(self.parties) < MOST_PARTIES)
    @rule(directory=DIRECTORY, alg=ALGORITHM, contact=CONTACTS, bound=st.booleans(), number=NUMBERS)
    def register(self, directory: int, alg: str, contact: str, bound: bool, number: int) -> None:
        place, key = DIRECTORIES[directory], new_key(alg)
        client = self.client(place, key, ALGORITHMS[alg])
        binding = self.book.bindings[number % len(self.book.bindings)] if bound and self.book.bindings else None
        outside = None
        if binding is not None:
            outside = messages.ExternalAccountBinding.from_data(
                key.public_key(), binding.id, binding.mac_key, client.directory
            )
        message = messages.NewRegistration.from_data(
            contact=contacts(contact), terms_of_service_agreed=True, external_account_binding=outside
        )
        made: list[messages.RegistrationResource] = []
        expected = self.book.may_register(place, binding, contact_is_one=contact != "mailto:nobody")
        what = f"register {'bound' if bound else 'unbound'}"
        if self.answered(what, expected, lambda: made.append(client.new_account(message))):
            account = Account(made[0].uri, place, contacts(contact), binding)
            self.book.register(account)
            self.parties.append(Party(account, client, made[0]))
            self.touched.append(self.parties[-1])

    @rule(number=NUMBERS)
    def register_again(self, number: int) -> None:
        """The same key has the same account, unless that is closed."""
        party = self.party(number)
        key = party.client.net.key
        assert key is not None
        client = self.client(party.account.directory, key, party.client.net.alg)
        again = messages.NewRegistration.from_data(terms_of_service_agreed=True)
        self.answered("register again", party.account.may or CONFLICT, lambda: client.new_account(again))

    @rule(number=NUMBERS, contact=CONTACTS)
    def change_contact(self, number: int, contact: str) -> None:
        party = self.party(number)
        expected = party.account.may or ("invalidContact" if contact == "mailto:nobody" else "")
        update = messages.Registration.from_data(contact=contacts(contact))
        if self.answered("change contact", expected, lambda: party.client.update_registration(party.resource, update)):
            party.account.contact = contacts(contact)
        party.client.net.account = party.resource

    @rule(number=NUMBERS, other=NUMBERS, alg=ALGORITHM, to=st.sampled_from(["new", "new", "anothers"]))
    def change_key(self, number: int, other: int, alg: str, to: str) -> None:
        """Section 7.3.5, for which the library has the signatures and no method."""
        party, another = self.party(number), self.parties[other % len(self.parties)]
        net = party.client.net
        new, new_alg = new_key(alg), ALGORITHMS[alg]
        expected = party.account.may
        assert net.key is not None
        if to == "anothers":
            assert another.client.net.key is not None
            new, new_alg = another.client.net.key, another.client.net.alg
            if another.account.directory is party.account.directory:
                expected = expected or CONFLICT
            else:
                return
        url = party.client.directory.keyChange
        change = {"account": party.account.uri, "oldKey": net.key.public_key().to_json()}
        inner = jws.JWS.sign(json.dumps(change).encode(), new, new_alg, None, url)
        if self.answered("change key", expected, lambda: party.post(url, inner)):
            party.left.append((net.key, net.alg))
            net.key, net.alg = new, new_alg

    @precondition(lambda self: any(party.left for party in self.parties))
    @rule(number=NUMBERS)
    def use_former_key(self, number: int) -> None:
        party = self.one(number, [party for party in self.parties if party.left])
        net = self.net(*party.left[number % len(party.left)])
        net.account = party.resource
        nonces = party.client.directory.newNonce
        fits = net.alg == party.client.net.alg
        expected = party.account.may or ("unauthorized" if fits else "badSignatureAlgorithm")
        self.answered("use former key", expected, lambda: net.post(party.account.uri, None, new_nonce_url=nonces))

    @precondition(lambda self: len(self.parties) > 2)
    @rule(number=NUMBERS)
    def close_account(self, number: int) -> None:
        if number % 3 == 0:
            party = self.party(number // 3)
            what = lambda: party.client.deactivate_registration(party.resource)  # noqa: E731 - said twice
            self.answered("close account", party.account.may, what)
            party.client.net.account = party.resource
            party.account.status = "deactivated"

    # --- orders -----------------------------------------------------------------------------------------------------

    @rule(number=NUMBERS, names=WANTED)
    def order(self, number: int, names: list[str]) -> None:
        party = self.party(number)
        key = ec.generate_private_key(ec.SECP256R1())
        csr = crypto_util.make_csr(pem_of(key), names)
        made: list[messages.OrderResource] = []
        expected = party.account.may_order(tuple(names))
        if self.answered("order", expected, lambda: made.append(party.client.new_order(csr))):
            (found,) = made
            met = [
                party.account.authorization(each.uri, name)
                for each, name in zip(found.authorizations, names, strict=True)
            ]
            order = Order(found.uri, tuple(names), met)
            party.account.orders.append(order)
            party.csrs[order.url], party.keys[order.url] = csr, key
            assert self.check_order(party, order) == found.body
            for each in found.authorizations:
                party.challenges.setdefault(each.uri, tuple(each.body.challenges))

    @rule(number=NUMBERS, name=st.sampled_from(NAMES))
    def authorize_before(self, number: int, name: str) -> None:
        """Section 7.4.1, for which the library has the message and no method."""
        party = self.party(number)
        expected = party.account.may_order((name,)) or ("malformed" if name.startswith("*.") else "")
        identifier = messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name)
        message = messages.NewAuthorization(identifier=identifier)
        made: list[Any] = []
        if self.answered(
            "authorize before", expected, lambda: made.append(party.post(party.client.directory.newAuthz, message))
        ):
            url = made[0].headers["Location"]
            body = messages.Authorization.from_json(made[0].json())
            party.account.authorization(url, name)
            party.challenges.setdefault(url, tuple(body.challenges))

    @precondition(lambda self: any(party.challenges for party in self.proving))
    @rule(number=NUMBERS, which=NUMBERS, kind=CHALLENGES, prepared=st.sampled_from([True, True, True, False]))
    def answer(self, number: int, which: int, kind: str, prepared: bool) -> None:
        """Say that a challenge is prepared, which may be a lie."""
        party = self.one(number, [party for party in self.proving if party.challenges])
        pending = [each for each in party.account.authorizations if each.status == PENDING]
        choice = pending if pending and which % 8 else party.account.authorizations
        authorization = choice[which // 8 % len(choice)]
        kind = kind if kind in authorization.offered else "dns-01"
        body = next(each for each in party.challenges[authorization.url] if each.chall.typ == kind)
        challenge = body.chall
        assert isinstance(challenge, KeyAuthorizationChallenge)
        response, validation = challenge.response_and_validation(party.client.net.key)
        if prepared:
            self.stage.shown.show(challenge, authorization.name, response, validation)
        what = f"answer {kind}{'' if prepared else ' unprepared'}"
        if self.answered(what, party.account.may, lambda: party.client.answer_challenge(body, response)):
            authorization.answer(kind, prepared=prepared)
            self.await_outcome(party, authorization.url)

    def await_outcome(self, party: Party, url: str) -> None:
        resource = messages.AuthorizationResource(uri=url, body=messages.Authorization())

        def ended() -> bool | None:
            body = party.client._authzr_from_response(party.post(url), uri=resource.uri).body
            return None if any(each.status.name == "processing" for each in body.challenges) else True

        until(ended, self.stage)

    @rule(number=NUMBERS, which=NUMBERS)
    def deactivate_authorization(self, number: int, which: int) -> None:
        party = self.party(number)
        known = party.account.authorizations
        if known and which % 3 == 0:
            authorization = known[which // 3 % len(known)]
            resource = messages.AuthorizationResource(uri=authorization.url, body=messages.Authorization())
            resource = resource.update(
                body=messages.Authorization(
                    identifier=messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=authorization.name)
                )
            )
            expected = party.account.may or authorization.deactivate()
            self.answered("deactivate authorization", expected, lambda: party.client.deactivate_authorization(resource))

    @precondition(lambda self: any(party.account.orders for party in self.parties))
    @rule(
        number=NUMBERS, which=NUMBERS, asked=st.sampled_from(["ordered", "ordered", "ordered", "one more", "one less"])
    )
    def finalize(self, number: int, which: int, asked: str) -> None:
        party = self.one(number, [party for party in self.parties if party.account.orders])
        order = self.order_of(party, which)
        names, csr = set(order.names), party.csrs[order.url]
        if asked == "one more":
            names |= {"evil.example"}
        elif asked == "one less" and len(names) > 1:
            names -= {order.names[0]}
        if names != {*order.names}:
            csr = crypto_util.make_csr(pem_of(party.keys[order.url]), sorted(names))
        expected = party.account.may or order.finalize(frozenset(names))
        body = messages.Order(
            finalize=f"{order.url}/finalize", authorizations=[each.url for each in order.authorizations]
        )
        resource = messages.OrderResource(uri=order.url, csr_pem=csr, authorizations=[], body=body)
        if expected:
            self.answered("finalize", expected, lambda: party.client.begin_finalization(resource))
            return
        deadline = datetime.now() + timedelta(seconds=30)  # noqa: DTZ005 - as the library has it
        done: list[messages.OrderResource] = []
        self.answered(
            "finalize",
            "",
            lambda: done.append(party.client.finalize_order(resource, deadline, fetch_alternative_chains=True)),
        )
        self.met(party, order, done[0])

    def met(self, party: Party, order: Order, done: messages.OrderResource) -> None:
        """Hold what was downloaded against the order, and trust it as a relying party does."""
        root = x509.load_der_x509_certificate(self.stage.root())
        assert len(done.alternative_fullchains_pem) == 1
        for text in (done.fullchain_pem, *done.alternative_fullchains_pem):
            leaf, *above = x509.load_pem_x509_certificates(text.encode())
            for lower, upper in zip([leaf, *above], [*above, root], strict=True):
                if lower != upper:
                    lower.verify_directly_issued_by(upper)
            assert leaf.public_key() == party.keys[order.url].public_key()
            found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert {str(each.value) for each in found} == {*order.names}
            assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
            party.leaves[order.url] = leaf
        order.certificate = Certificate(
            f"{party.leaves[order.url].serial_number:x}", frozenset(order.names), party.account
        )
        self.book.certificates.append(order.certificate)

    # --- what was issued --------------------------------------------------------------------------------------------

    @precondition(lambda self: any(party.leaves for party in self.parties))
    @rule(number=NUMBERS, which=NUMBERS, other=NUMBERS, by=REVOKERS, reason=REASONS)
    def revoke(self, number: int, which: int, other: int, by: str, reason: int) -> None:
        party, another = self.one(number, [party for party in self.parties if party.leaves]), self.party(other)
        url = sorted(party.leaves, key=[order.url for order in party.account.orders].index)[which % len(party.leaves)]
        leaf, order = party.leaves[url], next(each for each in party.account.orders if each.url == url)
        assert order.certificate is not None
        who = {"owner": party, "another": another}.get(by)
        if who is not None:
            client = who.client
        else:
            key = party.keys[url] if by == "its key" else ec.generate_private_key(ec.SECP256R1())
            client = self.client(party.account.directory, JWKEC(key=key), ES256)
        expected = order.certificate.revoke(
            who.account if who is not None else None, holds_key=by == "its key", reason=reason
        )
        self.answered(f"revoke by {by}", expected, lambda: client.revoke(leaf, reason))

    @precondition(lambda self: any(party.leaves for party in self.parties))
    @rule(number=NUMBERS, which=NUMBERS)
    def ask_when_to_renew(self, number: int, which: int) -> None:
        """RFC 9773: a certificate that was revoked is to be replaced now, another one before it ends."""
        party = self.one(number, [party for party in self.parties if party.leaves])
        orders = [each for each in party.account.orders if each.certificate is not None]
        order = orders[which % len(orders)]
        leaf = party.leaves[order.url]
        moment, _ = party.client.renewal_time(leaf.public_bytes(Encoding.PEM))
        assert moment is not None
        assert order.certificate is not None
        now = self.stage.worlds[0].clock.now()
        assert (moment <= now) == order.certificate.revoked
        assert moment < leaf.not_valid_after_utc
        self.tally.answers["ask when to renew"] += 1

    # --- what is not allowed ----------------------------------------------------------------------------------------

    @rule(number=NUMBERS, other=NUMBERS, what=st.sampled_from(REACHED))
    def reach_for_anothers(self, number: int, other: int, what: str) -> None:
        """Nobody reads or changes what is another's, in whichever directory that is."""
        owner, party = self.party(number), self.party(other)
        account = owner.account
        if owner is party or party.account.directory is not account.directory:
            return
        orders = [each for each in account.orders if what != "cert" or each.certificate is not None]
        message: Any = None
        if what == "account":
            url, message = account.uri, messages.Registration.from_json({"status": "deactivated"})
        elif what == "authorization" and account.authorizations:
            url, message = account.authorizations[-1].url, messages.UpdateAuthorization(status="deactivated")
        elif what in {"order", "finalize", "cert"} and orders:
            url = orders[-1].url
            if what == "finalize":
                csr = x509.load_pem_x509_csr(owner.csrs[url])
                url, message = f"{url}/finalize", messages.CertificateRequest(csr=csr)
            elif what == "cert" and account.status == VALID:
                url = str(self.check_order(owner, orders[-1]).certificate)
        else:
            return
        expected = party.account.may or ("unauthorized" if what == "account" else "malformed")
        self.answered(f"reach for another's {what}", expected, lambda: party.post(url, message))

    @rule(number=NUMBERS)
    def replay(self, number: int) -> None:
        """One of the last things that were asked for is asked for once more, whatever came of it."""
        url, body = self.posted[number % len(self.posted)]
        answer = self.stage.send("POST", url, body, {"Content-Type": "application/jose+json"})
        assert answer.status_code == 400, f"a request is answered a second time: {url}"
        assert answer.json()["type"] == f"{URN}badNonce"
        assert acme.decode(answer.headers["replay-nonce"])
        self.tally.answers["replay"] += 1
        self.touched = list(self.parties)
