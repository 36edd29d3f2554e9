"""dns-persist-01: which records count for whom, until when, and for wildcards."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from connectors.validation.service import Failed, Settings, Validator
from tests.connectors.validation.nameserver import nameserver, zone
from tests.connectors.validation.world import ACCOUNT, ChallengeServer, asked

pytestmark = pytest.mark.anyio

OURS = ("ca.test", "old.ca.test")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
THEN = int(NOW.timestamp())


async def validate(*texts: str, wildcard: bool = False, name: str = "a.test") -> None:
    """Validate with these records, at ``NOW``."""
    async with nameserver(zone(TXT=[f'"{text}"' for text in texts])) as server:
        validator = Validator(Settings(resolvers=(server.address,), persist_issuers=OURS), lambda: NOW)
        await validator.validate(asked("dns-persist-01", name, wildcard=wildcard, token=""))
        assert server.asked == [("_validation-persist.a.test", "TXT")]


async def test_a_real_record_is_believed(challenges: ChallengeServer) -> None:
    """It needs no token; a wildcard is looked for where its name is."""
    text = f"ca.test; accounturi={ACCOUNT}; policy=wildcard"
    challenges.tell("set-txt", host="_validation-persist.stays.test.", value=text)
    validator = Validator(challenges.settings(persist_issuers=OURS))
    evidence = await validator.validate(asked("dns-persist-01", "*.stays.test", token=""))
    assert evidence.asked == "TXT records of _validation-persist.stays.test"
    assert text in evidence.answer


@pytest.mark.parametrize(
    "text",
    [
        f"ca.test; accounturi={ACCOUNT}",
        f"ca.test;accounturi={ACCOUNT}",
        f"  OLD.CA.test ;  AccountURI = {ACCOUNT}  ",
        f"ca.test; accounturi={ACCOUNT}; policy=wildcard",
        f"ca.test; accounturi={ACCOUNT}; policy=another",
        f"ca.test; unknown=x; accounturi={ACCOUNT}; unknown=y",
        f"ca.test; accounturi={ACCOUNT}; persistUntil={THEN}",
        f"ca.test; persistUntil={THEN + 1}; accounturi={ACCOUNT}",
    ],
)
async def test_records_that_count(text: str) -> None:
    """Unknown parameters are passed over, and a time ends after itself."""
    await validate(text)


@pytest.mark.parametrize(
    "text,why",
    [
        ("", "names another issuer"),
        (f"accounturi={ACCOUNT}", "grammar"),
        (f"other.test; accounturi={ACCOUNT}", "names another issuer"),
        (f"; accounturi={ACCOUNT}", "names another issuer"),
        ("ca.test", "names another account"),
        (f"ca.test; accounturi={ACCOUNT}2", "names another account"),
        (f"ca.test; accounturi={ACCOUNT.upper()}", "names another account"),
        ("ca.test; accounturi=", "names another account"),
        (f"ca.test; accounturi={ACCOUNT}; accounturi={ACCOUNT}", "more than once"),
        (f"ca.test; accounturi={ACCOUNT}; policy=wildcard; policy=wildcard", "more than once"),
        (f"ca.test; accounturi={ACCOUNT}; persistUntil={THEN - 1}", "has ended"),
        (f"ca.test; accounturi={ACCOUNT}; persistuntil={THEN - 1}", "has ended"),
        (f"ca.test; accounturi={ACCOUNT}; persistUntil=-1", "not a number"),
        (f"ca.test; accounturi={ACCOUNT}; persistUntil=", "not a number"),
        (f"ca.test; accounturi={ACCOUNT}; persistUntil={THEN}.5", "not a number"),
        (f"ca.test; accounturi={ACCOUNT}; persistUntil={'9' * 99}", "not a number"),
        (f"ca.test accounturi={ACCOUNT}", "grammar"),
        (f"ca.test; accounturi={ACCOUNT} x", "grammar"),
    ],
)
async def test_records_that_do_not_count(text: str, why: str) -> None:
    """The reason is told, and the record that is wanted."""
    with pytest.raises(Failed, match=why) as caught:
        await validate(text)
    assert caught.value.type == "unauthorized"
    assert f"Add one with 'ca.test; accounturi={ACCOUNT}'" in caught.value.detail


@pytest.mark.parametrize("policy", ["", "; policy=", "; policy=none", "; policy=wildcards", "; other=wildcard"])
async def test_a_wildcard_needs_its_policy(policy: str) -> None:
    with pytest.raises(Failed, match=r"policy=wildcard, which.*policy=wildcard'"):
        await validate(f"ca.test; accounturi={ACCOUNT}{policy}", wildcard=True)
    with pytest.raises(Failed, match="policy=wildcard"):
        await validate(f"ca.test; accounturi={ACCOUNT}{policy}", name="*.a.test")


async def test_a_policy_is_read_without_case() -> None:
    await validate(f"ca.test; accounturi={ACCOUNT}; Policy=WildCard", wildcard=True)


async def test_one_good_record_among_others_is_enough() -> None:
    await validate("not; a; record", f"other.test; accounturi={ACCOUNT}", f"ca.test; accounturi={ACCOUNT}")


async def test_no_record() -> None:
    with pytest.raises(Failed, match=rf"no TXT record was found.*'ca\.test; accounturi={ACCOUNT}'"):
        await validate()


async def test_resolvers_that_disagree() -> None:
    async with (
        nameserver(zone(TXT=[f'"ca.test; accounturi={ACCOUNT}"'])) as one,
        nameserver(zone()) as other,
    ):
        settings = Settings(resolvers=(one.address, other.address), persist_issuers=OURS)
        with pytest.raises(Failed, match="only some of the resolvers"):
            await Validator(settings).validate(asked("dns-persist-01", "a.test"))


async def test_a_server_without_a_name_of_its_own() -> None:
    with pytest.raises(Failed, match="issuer domain name") as caught:
        await Validator(Settings()).validate(asked("dns-persist-01", "a.test"))
    assert caught.value.type == "serverInternal"
