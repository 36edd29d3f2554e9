"""Orders at a real authority: every kind of challenge, and what becomes of one that was left at any point."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import anyio
import pytest
from cryptography import x509

from connectors.issuers.acme.accounts import Account, Registration, find_or_register
from connectors.issuers.acme.challenges import Challenge
from connectors.issuers.acme.client import Session, session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.orders import Order, new_order, resume
from connectors.issuers.acme.state import OrderState
from connectors.issuers.acme.transport import Answer
from core.acme import DNS_01, HTTP_01, TLS_ALPN_01
from core.csr import build_csr
from core.errors import Conflict, DeadlineExceeded, InvalidInput, Misconfigured, NotFound, Refused, Transient
from core.keys import KeyAlgorithm, generate
from core.names import Name, parse_name
from tests.connectors.issuers.acme.alpn import ALPNServer
from tests.connectors.issuers.acme.obtaining import obtain
from tests.connectors.issuers.acme.pebble import HTTPAnswers, Pebble, TXTAnswers

pytestmark = pytest.mark.anyio
NUMBERS = count(1)
STEPS = 40
"""More than there are steps in an order of two names."""


def names(*texts: str) -> tuple[Name, ...]:
    return tuple(parse_name(text) for text in texts)


def fresh() -> tuple[Name, ...]:
    number = next(NUMBERS)
    return names(f"n{number}.example.test", f"www.n{number}.example.test")


def request(*wanted: Name) -> bytes:
    return build_csr(generate(KeyAlgorithm.ECDSA_P256), str(wanted[0]), wanted)


def issued_in(pebble: Pebble) -> int:
    return pebble.asked("Issued certificate serial")


async def test_a_certificate_comes_by_http_01_with_its_chain(pebble: Pebble, account: Account) -> None:
    wanted, answers = fresh(), HTTPAnswers(pebble)
    csr = request(*wanted)
    issued = await obtain(await new_order(account, wanted), csr, {HTTP_01: answers})
    leaf, intermediate = (x509.load_der_x509_certificate(der) for der in issued.chain)
    root = x509.load_pem_x509_certificate(pebble.manage("roots/0").content)
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    assert leaf.public_key() == x509.load_der_x509_csr(csr).public_key()
    assert issued.root == root.subject.rfc4514_string().removeprefix("CN=")
    assert sorted(answers.taken_away) == sorted(str(name) for name in wanted)


async def test_a_wildcard_and_its_base_come_by_dns_01(pebble: Pebble, account: Account) -> None:
    number = next(NUMBERS)
    wanted = names(f"w{number}.example.test", f"*.w{number}.example.test")
    answers = TXTAnswers(pebble)
    order = await new_order(account, wanted)
    authorizations = await order.authorizations()
    assert sorted(each.wildcard for each in authorizations) == [False, True]
    assert {each.name for each in authorizations} == {wanted[0]}
    issued = await obtain(order, request(*wanted), {HTTP_01: HTTPAnswers(pebble), DNS_01: answers}, preference=[DNS_01])
    assert answers.shown == [f"_acme-challenge.w{number}.example.test"] * 2
    assert len(issued.chain) == 2


@pytest.mark.parametrize("name", ["alpn.example.test", "127.0.0.1"])
async def test_a_certificate_comes_by_tls_alpn_01_for_a_name_and_an_address(
    pebble: Pebble, account: Account, name: str
) -> None:
    wanted = names(name)
    with ALPNServer(pebble.tls) as server:
        await obtain(await new_order(account, wanted), request(*wanted), {TLS_ALPN_01: server})
    assert set(server.asked) == {server.expected}


async def test_what_is_preferred_is_chosen_where_it_is_offered(pebble: Pebble, account: Account) -> None:
    wanted, by_http, by_dns = fresh(), HTTPAnswers(pebble), TXTAnswers(pebble)
    order = await new_order(account, wanted)
    answerers = {DNS_01: by_dns, HTTP_01: by_http}
    await obtain(order, request(*wanted), answerers, preference=("dns-persist-01", HTTP_01, DNS_01))
    assert by_dns.shown == []
    wild = names(f"*.{wanted[0]}")
    with pytest.raises(Refused, match="offers dns-01, and set up here is http-01"):
        await obtain(await new_order(account, wild), request(*wild), {HTTP_01: by_http})


async def test_validity_may_be_asked_for(pebble: Pebble, account: Account) -> None:
    wanted, start = fresh(), datetime.now(UTC).replace(microsecond=0)
    end = start + timedelta(days=3)
    order = await new_order(account, wanted, not_before=start, not_after=end)
    issued = await obtain(order, request(*wanted), {HTTP_01: HTTPAnswers(pebble)})
    leaf = x509.load_der_x509_certificate(issued.chain[0])
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (start, end)


async def test_a_wrong_answer_ends_the_order_and_says_whose_it_was(pebble: Pebble, account: Account) -> None:
    class Wrong(HTTPAnswers):
        async def present(self, challenge: object) -> None:
            self.shown.append("nothing")

    wanted, kept = fresh(), list[OrderState]()

    async def save(state: OrderState) -> None:
        kept.append(state)

    order, answers = await new_order(account, wanted, save=save), Wrong(pebble)
    with pytest.raises(Refused, match=f"{wanted[0]} by http-01: ") as caught:
        await obtain(order, request(*wanted), {HTTP_01: answers})
    assert len(caught.value.errors) in {0, 2}
    assert kept[-1].is_over
    assert len(answers.taken_away) == 2
    with pytest.raises(Conflict, match="make a new one"):
        await resume(account, kept[-1])
    with pytest.raises(Refused):
        await order.refresh()


async def test_a_passing_failure_of_a_name_ends_the_waiting_at_once(pebble: Pebble, account: Account) -> None:
    class Nobody(TXTAnswers):
        async def present(self, challenge: object) -> None:
            pebble.answer("set-servfail", host=f"{challenge.dns_name}.")  # type: ignore[attr-defined]  # it is one

    wanted = fresh()[:1]
    order = await new_order(account, wanted)
    with anyio.fail_after(20), pytest.raises((Transient, Refused)) as caught:
        await obtain(order, request(*wanted), {DNS_01: Nobody(pebble)})
    assert not isinstance(caught.value, DeadlineExceeded)
    assert order.state.is_over


async def test_a_request_has_the_names_of_the_order(account: Account) -> None:
    wanted = fresh()
    order = await new_order(account, wanted)
    with pytest.raises(InvalidInput, match="exactly the names"):
        await order.finalize(request(wanted[0]))
    with pytest.raises(Refused, match="no host name or address"):
        await new_order(account, names("ops@example.test"))
    with pytest.raises(Misconfigured, match="no profile 'short'"):
        await new_order(account, wanted, profile="short")


async def test_an_order_that_is_gone_is_over(account: Account) -> None:
    order = await new_order(account, fresh())
    order.state = OrderState.load(order.state.dump().replace(b"my-order/", b"my-order/x"))
    with pytest.raises(NotFound, match="make a new one"):
        await order.refresh()
    assert order.state.is_over


async def test_an_order_is_of_its_account(client: Session, account: Account) -> None:
    order = await new_order(account, fresh())
    other = await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
    with pytest.raises(Conflict, match="belongs to the account"):
        await resume(other, order.state)


class Dies(BaseException):
    """The end of a process."""


class Mortal(Account):
    """An account whose process ends at the n-th request: before it is sent, or when the answer is there, unread."""

    left = 0
    after = False

    async def post(self, url: str, payload: object, *, what: str, accept: str = "application/json") -> Answer:
        object.__setattr__(self, "left", self.left - 1)
        if self.left == 0 and not self.after:
            raise Dies
        answer = await super().post(url, payload, what=what, accept=accept)
        if self.left == 0:
            raise Dies
        return answer


@pytest.fixture(scope="module")
def reuser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority of its own, in whose log only these orders are."""
    authority = Pebble(tmp_path_factory.mktemp("reuser"))
    try:
        yield authority.start()
    finally:
        authority.stop()


async def one_life(
    mortal: Account, kept: list[OrderState], wanted: tuple[Name, ...], csr: bytes, answers: HTTPAnswers
) -> bytes:
    """Go on from what is kept as far as it goes."""

    async def save(state: OrderState) -> None:
        kept.append(OrderState.load(state.dump()))

    order = await (resume(mortal, kept[-1], save) if kept else new_order(mortal, wanted, save=save))
    return (await obtain(order, csr, {HTTP_01: answers})).chain[0]


class LeftAnswers(HTTPAnswers):
    """What a process shows that ends before it can take it away, while the authority may be looking."""

    async def clean_up(self, challenge: Challenge) -> None:
        self.taken_away.append(str(challenge.name))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_ends_at_any_request_goes_on_to_one_certificate_from_one_order(
    reuser: Pebble, after: bool
) -> None:
    async with session(reuser.directory_url, reuser.connection) as client:
        account = await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
        for step in range(1, STEPS):
            wanted, kept = fresh(), list[OrderState]()
            csr, before, leaf = request(*wanted), issued_in(reuser), b""
            mortal = Mortal(account.session, account.key, account.url)
            object.__setattr__(mortal, "left", step)
            object.__setattr__(mortal, "after", after)
            try:
                leaf = await one_life(mortal, kept, wanted, csr, LeftAnswers(reuser))
            except* Dies:
                leaf = await one_life(account, kept, wanted, csr, HTTPAnswers(reuser))
            assert leaf
            assert issued_in(reuser) - before == 1, f"step {step}"
            assert len({state.order_url for state in kept}) == 1, f"step {step}"
            if mortal.left > 0:
                break
        else:
            pytest.fail("the order has more steps than were tried")
    assert step > 8


async def test_an_order_that_is_cancelled_at_any_moment_goes_on_and_takes_its_answers_away(
    reuser: Pebble,
) -> None:
    async with session(reuser.directory_url, reuser.connection) as client:
        account = await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
        for step in range(1, STEPS):
            wanted, kept, answers = fresh(), list[OrderState](), HTTPAnswers(reuser)
            csr, before = request(*wanted), issued_in(reuser)

            async def save(state: OrderState, kept: list[OrderState] = kept) -> None:
                kept.append(state)

            with anyio.CancelScope() as scope:
                mortal = Cancelled(account.session, account.key, account.url)
                object.__setattr__(mortal, "left", step)
                object.__setattr__(mortal, "scope", scope)
                order = await new_order(mortal, wanted, save=save)
                await obtain(order, csr, {HTTP_01: answers})
            assert sorted(answers.shown) == sorted(answers.taken_away)
            try:
                order = await (resume(account, kept[-1]) if kept else new_order(account, wanted))
                await obtain(order, csr, {HTTP_01: answers})
            except Refused as error:
                # It was told that they are there and looked when they had gone: what is tried then is another order.
                if not kept or not re.search('did not match this challenge .* != ""', error.detail):
                    raise
                await obtain(await new_order(account, wanted), csr, {HTTP_01: answers})
            assert issued_in(reuser) - before == 1, f"step {step}"
            if not scope.cancelled_caught:
                break
    assert step > 8


class Cancelled(Account):
    """An account that cancels a scope with its n-th request."""

    left = 0
    scope: anyio.CancelScope

    async def post(self, url: str, payload: object, *, what: str, accept: str = "application/json") -> Answer:
        object.__setattr__(self, "left", self.left - 1)
        if self.left == 0:
            self.scope.cancel()
        return await super().post(url, payload, what=what, accept=accept)


class LosesAnswer(Account):
    """An account whose first finalize is taken while its answer is lost on the way."""

    async def post(self, url: str, payload: object, *, what: str, accept: str = "application/json") -> Answer:
        answer = await super().post(url, payload, what=what, accept=accept)
        if what == "finalizing the order":
            raise Transient("the connection broke")
        return answer


async def test_a_finalize_whose_answer_was_lost_is_found_again(pebble: Pebble, account: Account) -> None:
    wanted = fresh()
    csr, before = request(*wanted), issued_in(pebble)
    deaf = LosesAnswer(account.session, account.key, account.url)
    order = await new_order(deaf, wanted)
    assert (await obtain(order, csr, {HTTP_01: HTTPAnswers(pebble)})).chain
    assert issued_in(pebble) - before == 1
    await order.finalize(csr)
    with pytest.raises(Conflict, match="another request"):
        await order.finalize(request(*wanted))
    with pytest.raises(Refused, match="another key"):
        await order.certificate(request(*wanted))


async def test_a_state_shows_all_there_is_and_no_secret(account: Account, tmp_path: Path) -> None:
    del tmp_path
    order = await new_order(account, fresh())
    kept = order.state.dump()
    assert OrderState.load(kept) == order.state
    assert account.key.pkcs8().reveal() not in kept
    assert repr(account) == f"Account({account.url!r})"
    with pytest.raises(InvalidInput, match="is not a kept order"):
        OrderState.load(b"{}")


async def test_challenges_are_accepted_once(pebble: Pebble, account: Account) -> None:
    order = await new_order(account, fresh()[:1])
    (authorization,) = await order.authorizations()
    challenge = next(each for each in authorization.challenges if each.type == HTTP_01)
    await HTTPAnswers(pebble).present(challenge)
    await order.accept(challenge)
    await order.accept(challenge)  # the authority refuses, having begun; which is what was wanted
    await order.wait_until_ready()
    assert isinstance(order, Order)
