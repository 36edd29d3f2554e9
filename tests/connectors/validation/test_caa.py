"""CAA against the real challenge server, and property by property (RFC 8659, RFC 8657)."""

from __future__ import annotations

import dns.rcode
import pytest

from connectors.validation.service import Evidence, Failed, Settings, Validator
from core.names import parse_name
from tests.connectors.validation.nameserver import Nameserver, Said, nameserver, zone
from tests.connectors.validation.world import ACCOUNT, ChallengeServer

pytestmark = pytest.mark.anyio

REFUSAL = r'records of theirs\.test forbid.*0 issue "other\.test" is not for.*add: CAA 0 issue "ca\.test"'


async def check(validator: Validator, name: str = "w.a.test", *, wildcard: bool = False) -> Evidence | None:
    """Check a name for the account of the tests, validated by dns-01."""
    return await validator.check_caa(parse_name(name), wildcard=wildcard, account_url=ACCOUNT, challenge="dns-01")


def validator_of(*servers: Nameserver) -> Validator:
    """Return a validator of an authority with two names."""
    addresses = tuple(server.address for server in servers)
    return Validator(Settings(resolvers=addresses, caa_identities=("CA.test", "ca.example"), dns_s=0.5))


async def by_records(*records: str, wildcard: bool = False) -> Evidence | None:
    """Check a name with these records."""
    async with nameserver(zone(CAA=list(records))) as server:
        return await check(validator_of(server), wildcard=wildcard)


async def test_the_real_challenge_server_is_asked(challenges: ChallengeServer) -> None:
    """Records above the name hold for it; those of another authority refuse."""
    policies = [{"tag": "issue", "value": "ca.test"}]
    challenges.tell("add-caa", host="ours.test.", policies=policies)
    challenges.tell("add-caa", host="theirs.test.", policies=[{"tag": "issue", "value": "other.test"}])
    validator = Validator(challenges.settings(caa_identities=("ca.test",)))
    evidence = await check(validator, "x.y.ours.test")
    assert evidence is not None
    assert (evidence.challenge, evidence.answer) == ("caa", '0 issue "ca.test"')
    with pytest.raises(Failed, match=REFUSAL) as caught:
        await check(validator, "x.theirs.test")
    assert caught.value.type == "caa"


async def test_a_real_servfail_refuses(challenges: ChallengeServer) -> None:
    challenges.tell("set-servfail", host="fails.test.")
    validator = Validator(challenges.settings(caa_identities=("ca.test",)))
    with pytest.raises(Failed, match=rf"127\.0\.0\.1:{challenges.ports.dns} said SERVFAIL for fails\.test") as caught:
        await check(validator, "w.fails.test")
    assert caught.value.type == "caa"


async def test_real_aliases_are_followed(challenges: ChallengeServer) -> None:
    challenges.tell("set-cname", host="alias.test.", target="target.test.")
    challenges.tell("add-caa", host="target.test.", policies=[{"tag": "issue", "value": ";"}])
    with pytest.raises(Failed, match="not for this authority"):
        await check(Validator(challenges.settings(caa_identities=("ca.test",))), "alias.test")


async def test_the_nearest_records_count_and_the_root_is_not_asked() -> None:
    """The tree is climbed until there are records (RFC 8659 section 3)."""

    def says(name: str, _kind: str) -> list[str]:
        return {"b.c.test": ['0 issue "ca.test"'], "c.test": ['0 issue ";"']}.get(name, [])

    async with nameserver(says) as server:
        await check(validator_of(server), "a.b.c.test")
        assert [name for name, _ in server.asked] == ["a.b.c.test", "b.c.test"]
        with pytest.raises(Failed):
            await check(validator_of(server), "x.c.test")
        server.asked.clear()
        await check(validator_of(server), "nothing.example")
        assert [name for name, _ in server.asked] == ["nothing.example", "example"]


@pytest.mark.parametrize(
    "records",
    [
        ['0 issue "ca.test"'],
        ['0 ISSUE "CA.TEST"'],
        ['0 issue "ca.example"'],
        ['0 issue "other.test"', '0 issue "ca.test"'],
        ['0 issue ";"', '0 issue "ca.test"'],
        ['128 issue "ca.test"'],
        ['0 iodef "mailto:a@b.test"'],
        ['128 iodef "mailto:a@b.test"'],
        ['0 issuewild ";"'],
        ['0 unknown "x"'],
        [f'0 issue "ca.test; accounturi={ACCOUNT}"'],
        ['0 issue "ca.test; validationmethods=dns-01"'],
        ['0 issue "ca.test; validationmethods=http-01,dns-01"'],
        [f'0 issue "ca.test; validationmethods=dns-01; accounturi={ACCOUNT}; x=y"'],
        ['0 issue "ca.test; accounturi=https://other.test/1"', '0 issue "ca.test"'],
    ],
)
async def test_permitted(records: list[str]) -> None:
    await by_records(*records)


@pytest.mark.parametrize(
    "records",
    [
        ['0 issue ";"'],
        ['0 issue ""'],
        ['0 issue "other.test"'],
        ['0 issue "ca.test.other"'],
        ['0 issue "ca.test accounturi=x"'],
        ['0 issue "ca.test; accounturi"'],
        ['0 issue "ca.test;;"'],
        ['0 issue "%%%"'],
        [r'0 issue "ca.test\255"'],
        ['0 issue "ca.test"', '128 unknown "x"'],
        ['128 Unknown "x"'],
        ['129 unknown "x"'],
        ['0 issue "ca.test; accounturi=https://other.test/1"'],
        ['0 issue "ca.test; accounturi="'],
        [f'0 issue "ca.test; accounturi={ACCOUNT}; accounturi={ACCOUNT}"'],
        [f'0 issue "ca.test; AccountURI={ACCOUNT}2"'],
        ['0 issue "ca.test; validationmethods=http-01"'],
        ['0 issue "ca.test; validationmethods="'],
        ['0 issue "ca.test; validationmethods=dns-01; validationmethods=dns-01"'],
        ['0 issue "ca.test; validationmethods=dns-011"'],
    ],
)
async def test_refused(records: list[str]) -> None:
    """Each failure says which property, and what to do."""
    with pytest.raises(Failed, match=r"add: CAA 0 issue|remove it, or its flag") as caught:
        await by_records(*records)
    assert caught.value.type == "caa"


@pytest.mark.parametrize(
    "records,permitted",
    [
        (['0 issue "ca.test"'], True),
        (['0 issue ";"'], False),
        (['0 issuewild "ca.test"'], True),
        (['0 issuewild "ca.test"', '0 issue ";"'], True),
        (['0 issuewild ";"', '0 issue "ca.test"'], False),
        (['0 issuewild "ca.test; validationmethods=http-01"'], False),
    ],
)
async def test_wildcards(records: list[str], permitted: bool) -> None:
    """``issuewild`` comes before ``issue`` where there is any (RFC 8659 section 4.3)."""
    if permitted:
        await by_records(*records, wildcard=True)
        return
    with pytest.raises(Failed):
        await by_records(*records, wildcard=True)


async def test_a_wildcard_as_it_is_written() -> None:
    async with nameserver(zone(CAA=['0 issuewild ";"'])) as server:
        with pytest.raises(Failed, match="issuewild"):
            await check(validator_of(server), "*.a.test")
        assert server.asked == [("a.test", "CAA")]


@pytest.mark.parametrize(
    "other,permitted",
    [
        (['0 issue ";"'], False),
        ([], True),
        (dns.rcode.SERVFAIL, True),
        (None, True),
    ],
)
async def test_every_resolver_that_answers_has_to_permit(other: Said, permitted: bool) -> None:
    """One that fails has no voice, unless nobody else has one."""
    async with nameserver(zone(CAA=['0 issue "ca.test"'])) as one, nameserver(lambda _name, _kind: other) as two:
        if permitted:
            await check(validator_of(one, two))
            return
        with pytest.raises(Failed):
            await check(validator_of(one, two))


@pytest.mark.parametrize("says", [dns.rcode.REFUSED, None])
async def test_no_answer_refuses(says: Said) -> None:
    async with nameserver(lambda _name, _kind: says) as server:
        with pytest.raises(Failed, match="are not known") as caught:
            await check(validator_of(server))
    assert caught.value.type == "caa"


async def test_what_is_not_checked() -> None:
    """Addresses have no CAA; an authority without a name in it does not look."""
    async with nameserver(zone(CAA=['0 issue ";"'])) as server:
        assert await check(validator_of(server), "127.0.0.1") is None
        assert await check(Validator(Settings(resolvers=(server.address,)))) is None
        assert server.asked == []
