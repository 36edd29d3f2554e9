"""dns-01 and dns-account-01 against the real challenge server, and against resolvers that fail or disagree."""

from __future__ import annotations

from contextlib import AsyncExitStack

import dns.asyncbackend
import dns.rcode
import pytest

from benchmarks.lab.processes import free_ports
from connectors.validation.service import Evidence, Failed, Settings, Validator
from core.acme import dns_name, txt_value
from core.errors import Misconfigured
from tests.connectors.validation.nameserver import Says, nameserver, zone
from tests.connectors.validation.world import ACCOUNT, KEY_AUTHORIZATION, ChallengeServer, asked

pytestmark = pytest.mark.anyio

VALUE = txt_value(KEY_AUTHORIZATION)
GOOD, BAD = zone(TXT=[f'"{VALUE}"']), zone(TXT=['"else"'])


def silent(_name: str, _kind: str) -> None:
    """Say nothing at all."""


def servfail(_name: str, _kind: str) -> dns.rcode.Rcode:
    return dns.rcode.SERVFAIL


async def by(*resolvers: Says, type_: str = "dns-01", name: str = "a.test") -> Evidence:
    """Validate with these resolvers."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(nameserver(says)) for says in resolvers]
        settings = Settings(resolvers=tuple(server.address for server in servers), dns_s=0.5)
        return await Validator(settings).validate(asked(type_, name))


@pytest.mark.parametrize("name,wildcard", [("one.test", False), ("two.test", True), ("*.three.test", False)])
async def test_the_real_challenge_server_is_believed(challenges: ChallengeServer, name: str, wildcard: bool) -> None:
    """A wildcard is looked for at the name that it hangs on, however it is written."""
    challenges.tell("set-txt", host=f"_acme-challenge.{name.removeprefix('*.')}.", value=VALUE)
    evidence = await Validator(challenges.settings()).validate(asked("dns-01", name, wildcard=wildcard))
    assert evidence.answer == VALUE
    assert evidence.asked == f"TXT records of _acme-challenge.{name.removeprefix('*.')}"
    assert evidence.resolvers == (f"127.0.0.1:{challenges.ports.dns}",)


async def test_the_account_has_a_label_of_its_own(challenges: ChallengeServer) -> None:
    """The record of one account does not serve another one, nor does that of dns-01."""
    challenges.tell("set-txt", host=dns_name("four.test", ACCOUNT) + ".", value=VALUE)
    challenges.tell("set-txt", host="_acme-challenge.five.test.", value=VALUE)
    validator = Validator(challenges.settings())
    await validator.validate(asked("dns-account-01", "four.test"))
    for name, url in (("four.test", ACCOUNT + "2"), ("five.test", ACCOUNT)):
        with pytest.raises(Failed, match="no TXT record"):
            await validator.validate(asked("dns-account-01", name, account_url=url))


async def test_real_aliases_are_followed(challenges: ChallengeServer) -> None:
    challenges.tell("set-cname", host="_acme-challenge.six.test.", target="validation.elsewhere.test.")
    challenges.tell("set-txt", host="validation.elsewhere.test.", value=VALUE)
    await Validator(challenges.settings()).validate(asked("dns-01", "six.test"))


async def test_another_value_among_several(challenges: ChallengeServer) -> None:
    """One good record is enough; without it the failure tells what was found and what is wanted."""
    challenges.tell("clear-txt", host="_acme-challenge.seven.test.")  # what the other loop's test has left
    for value in ("else", VALUE[:-1]):
        challenges.tell("set-txt", host="_acme-challenge.seven.test.", value=value)
    validator = Validator(challenges.settings())
    with pytest.raises(Failed, match=rf"'else'.* none of them is {VALUE}; add") as caught:
        await validator.validate(asked("dns-01", "seven.test"))
    assert (caught.value.type, "else" in caught.value.evidence.answer) == ("incorrectResponse", True)
    challenges.tell("set-txt", host="_acme-challenge.seven.test.", value=VALUE)
    await validator.validate(asked("dns-01", "seven.test"))


async def test_a_real_servfail(challenges: ChallengeServer) -> None:
    """It is told with the server's name."""
    challenges.tell("set-servfail", host="_acme-challenge.eight.test.")
    with pytest.raises(Failed, match=rf"127\.0\.0\.1:{challenges.ports.dns} said SERVFAIL") as caught:
        await Validator(challenges.settings()).validate(asked("dns-01", "eight.test"))
    assert caught.value.type == "dns"


async def test_the_strings_of_a_record_are_one_text() -> None:
    await by(zone(TXT=[f'"{VALUE[:10]}" "{VALUE[10:]}"']))
    with pytest.raises(Failed):
        await by(zone(TXT=[f'"{VALUE[:10]}"', f'"{VALUE[10:]}"']))


@pytest.mark.parametrize(
    "resolvers",
    [
        (GOOD, GOOD, BAD),
        (GOOD, GOOD),
        (GOOD, servfail),
        (servfail, GOOD, silent),
        (GOOD, GOOD, zone(), servfail),
    ],
)
async def test_a_majority_of_those_that_answered(resolvers: tuple[Says, ...]) -> None:
    assert len((await by(*resolvers)).resolvers) == len(resolvers)


@pytest.mark.parametrize(
    "resolvers,text",
    [
        ((GOOD, BAD), "only some of the resolvers"),
        ((GOOD, BAD, BAD), "only some"),
        ((GOOD, zone(), servfail), "only some"),
        ((GOOD, lambda _name, _kind: dns.rcode.NXDOMAIN), "only some"),
        ((BAD, BAD), "none of them is"),
        ((zone(),), "no TXT record was found"),
        ((lambda _name, _kind: dns.rcode.NXDOMAIN,), "no TXT record was found"),
    ],
)
async def test_no_majority(resolvers: tuple[Says, ...], text: str) -> None:
    with pytest.raises(Failed, match=text) as caught:
        await by(*resolvers)
    assert caught.value.type == "incorrectResponse"


@pytest.mark.parametrize(
    "says,text",
    [
        (servfail, "SERVFAIL"),
        (silent, "timeout"),
        (lambda _name, _kind: dns.rcode.REFUSED, "REFUSED"),
        (lambda _name, _kind: dns.rcode.FORMERR, "FORMERR"),
    ],
)
async def test_nobody_answered(says: Says, text: str) -> None:
    """Every resolver is named, with what it said."""
    with pytest.raises(Failed, match=rf"127\.0\.0\.1:\d+ said {text}, 127\.0\.0\.1:\d+ said SERVFAIL") as caught:
        await by(says, servfail)
    assert caught.value.type == "dns"


async def test_a_resolver_that_does_not_listen() -> None:
    port = free_ports(1)[0]
    settings = Settings(resolvers=(("127.0.0.1", port),), dns_s=0.5)
    with pytest.raises(Failed, match=rf"127\.0\.0\.1:{port} said ") as caught:
        await Validator(settings).validate(asked("dns-01", "a.test"))
    assert caught.value.type == "dns"


async def test_truncated_answers_are_asked_for_over_tcp() -> None:
    async with nameserver(GOOD, truncates=True) as server:
        await Validator(Settings(resolvers=(server.address,))).validate(asked("dns-01", "a.test"))
    assert server.over_tcp == 1


async def test_the_loop_that_the_library_saw_first_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dnspython keeps the first backend it has met; in this process that may have been Trio's."""
    monkeypatch.setattr(dns.asyncbackend, "_default_backend", dns.asyncbackend.get_backend("trio"))
    await by(GOOD)


async def test_a_name_too_long_for_a_label_in_front() -> None:
    """253 characters are a name, and leave no room for ``_acme-challenge``."""
    long = ".".join(["a" * 60] * 4)
    with pytest.raises(Failed) as caught:
        await by(GOOD, name=f"{long}.test")
    assert caught.value.type == "dns"


@pytest.mark.parametrize("resolver", [("dns.test", 53), ("127.0.0.1", 0), ("127.0.0.1", 65536), ("", 53)])
async def test_resolvers_are_addresses(resolver: tuple[str, int]) -> None:
    with pytest.raises(Misconfigured, match="ACME"):
        Validator(Settings(resolvers=(resolver,)))


async def test_the_resolvers_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any in the settings those of resolv.conf are asked; without one there, it says so."""
    async with nameserver(GOOD) as server:
        known = type("Known", (), {"nameservers": ["127.0.0.1"], "port": server.port})
        monkeypatch.setattr(dns.resolver, "Resolver", known)
        assert (await Validator(Settings()).validate(asked("dns-01", "a.test"))).resolvers == (
            f"127.0.0.1:{server.port}",
        )

    def none() -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver, "Resolver", none)
    with pytest.raises(Failed, match=r"resolv\.conf") as caught:
        await Validator(Settings()).validate(asked("dns-01", "a.test"))
    assert caught.value.type == "serverInternal"
