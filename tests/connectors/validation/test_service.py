"""What holds for every type of challenge: places, deadlines, and questions that make no sense."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from anyio.abc import AnyByteSendStream

from connectors.validation.service import CHALLENGES, Busy, Failed, Settings, Validator
from core.acme import txt_value
from tests.connectors.validation.nameserver import Nameserver, nameserver, zone
from tests.connectors.validation.web import says, web
from tests.connectors.validation.world import KEY_AUTHORIZATION, LOOPBACK, asked

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "type_,name,wildcard,token",
    [
        ("http-01", "a.test", True, "t"),
        ("tls-alpn-01", "*.a.test", False, "t"),
        ("dns-01", "127.0.0.1", False, "t"),
        ("dns-account-01", "::1", False, "t"),
        ("dns-persist-01", "::1", False, "t"),
        ("dns-02", "a.test", False, "t"),
        ("http-01", "a@a.test", False, "t"),
        ("http-01", "spiffe://a.test/x", False, "t"),
        ("http-01", "a.test", False, "../secret"),
        ("http-01", "a.test", False, ""),
        ("http-01", "a.test", False, "a\r\nX: y"),
        ("dns-01", "a.test", False, "a b"),
    ],
)
async def test_questions_that_make_no_sense(type_: str, name: str, wildcard: bool, token: str) -> None:
    """Nobody is asked anything."""
    async with nameserver(zone(A=["127.0.0.1"])) as names:
        with pytest.raises(Failed, match=";") as caught:
            await Validator(Settings(resolvers=(names.address,))).validate(
                asked(type_, name, wildcard=wildcard, token=token)
            )
        assert (caught.value.type, names.asked) == ("malformed", [])


@pytest.mark.parametrize("type_", ["dns-account-01", "dns-persist-01"])
async def test_an_account_without_a_url(type_: str) -> None:
    """It would be looked for where every account may write."""
    with pytest.raises(Failed, match="account's URL"):
        await Validator(Settings(persist_issuers=("ca.test",))).validate(asked(type_, "a.test", account_url=""))


class Crowd:
    """A web server that counts who is there at once, and lets them go when it is told to."""

    def __init__(self) -> None:
        self.here = self.most = self.all = 0
        self.go = anyio.Event()
        self.changed = anyio.Condition()

    async def answer(self, head: str, stream: AnyByteSendStream) -> None:
        async with self.changed:
            self.here, self.all = self.here + 1, self.all + 1
            self.most = max(self.most, self.here)
            self.changed.notify_all()
        await self.go.wait()
        self.here -= 1
        await says(KEY_AUTHORIZATION)(head, stream)

    async def reach(self, count: int) -> None:
        """Wait until so many have come."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.all >= count)


def settings_of(names: Nameserver, port: int, **changed: object) -> Settings:
    settings = Settings(resolvers=(names.address,), http_port=port, allowed_networks=LOOPBACK)
    return replace(settings, **changed)  # type: ignore[arg-type] # a test's changes, by name


@pytest.mark.parametrize(
    "places,most", [({"http-01": 2}, 2), ({"http-01": 3, "dns-01": 1}, 3), ({}, 10), ({"http-01": 0}, 1)]
)
async def test_no_more_than_the_places_of_its_type(places: dict[str, int], most: int) -> None:
    """The others wait, and are served; another type is not held up."""
    crowd = Crowd()
    txt = f'"{txt_value(KEY_AUTHORIZATION)}"'
    async with web(crowd.answer) as server, nameserver(zone(A=["127.0.0.1"], TXT=[txt])) as names:
        validator = Validator(settings_of(names, server.port, concurrency=places))
        async with anyio.create_task_group() as group:
            for _ in range(most + 3):
                group.start_soon(validator.validate, asked("http-01", "a.test"))
            await crowd.reach(most)
            await validator.validate(asked("dns-01", "a.test"))
            crowd.go.set()
    assert (crowd.most, crowd.all) == (most, most + 3)


@pytest.mark.parametrize("type_", ["dns-01", "dns-account-01", "dns-persist-01"])
async def test_all_who_ask_for_txt_records_share_their_places(type_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of lookups at once is meant for the resolvers, whatever the record is called."""
    asking = anyio.Event()
    async with nameserver(lambda *_: asking.set()) as names:
        settings = Settings(resolvers=(names.address,), concurrency={"dns-01": 1}, persist_issuers=("ca.test",))
        validator = Validator(settings)
        async with anyio.create_task_group() as group:
            group.start_soon(validator.validate, asked("dns-01", "a.test"))
            await asking.wait()
            monkeypatch.setattr(validator, "_settings", replace(settings, deadline_s=0.1))
            with pytest.raises(Busy):
                await validator.validate(asked(type_, "b.test"))
            group.cancel_scope.cancel()


async def test_whoever_is_served_too_slowly_fails_in_time() -> None:
    """And its place is free again."""
    crowd = Crowd()
    async with web(crowd.answer) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        validator = Validator(settings_of(names, server.port, concurrency={"http-01": 1}, deadline_s=0.5))
        with pytest.raises(Failed, match=r"no end within 0\.5 s") as caught:
            await validator.validate(asked("http-01", "a.test"))
        assert caught.value.type == "connection"
        crowd.go.set()
        await validator.validate(asked("http-01", "a.test"))


async def test_a_full_house(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a slower one holds the only place, nobody waits longer than the deadline for it."""
    crowd = Crowd()
    async with web(crowd.answer) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        validator = Validator(settings_of(names, server.port, concurrency={"http-01": 1}))
        async with anyio.create_task_group() as group:
            group.start_soon(validator.validate, asked("http-01", "a.test"))
            await crowd.reach(1)
            monkeypatch.setattr(validator, "_settings", settings_of(names, server.port, deadline_s=0.1))
            with pytest.raises(Busy, match="try again") as caught:
                await validator.validate(asked("http-01", "a.test"))
            crowd.go.set()
    assert caught.value.type == "serverInternal"


async def test_one_for_another_authority_has_no_places_of_its_own() -> None:
    """Whoever asks on behalf of many is as many at once as before."""
    crowd = Crowd()
    async with web(crowd.answer) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        validator = Validator(settings_of(names, server.port, concurrency={"http-01": 1}))
        async with anyio.create_task_group() as group:
            for authority in ("one.test", "two.test", "three.test"):
                group.start_soon(validator.of_authority((authority,), ()).validate, asked("http-01", "a.test"))
            await crowd.reach(1)
            await anyio.sleep(0.1)
            assert crowd.all == 1
            crowd.go.set()
    assert (crowd.most, crowd.all) == (1, 3)


async def test_a_cancelled_validation_gives_its_place_back() -> None:
    crowd = Crowd()
    async with web(crowd.answer) as server, nameserver(zone(A=["127.0.0.1"])) as names:
        validator = Validator(settings_of(names, server.port, concurrency={"http-01": 1}))
        async with anyio.create_task_group() as group:
            group.start_soon(validator.validate, asked("http-01", "a.test"))
            await crowd.reach(1)
            group.cancel_scope.cancel()
        crowd.go.set()
        await validator.validate(asked("http-01", "a.test"))


async def test_a_slow_resolver_is_a_failure_of_the_dns() -> None:
    async with nameserver(lambda _name, _kind: None) as names:
        settings = Settings(resolvers=(names.address,), deadline_s=0.3)
        with pytest.raises(Failed, match=r"no end within 0\.3 s, while asking") as caught:
            await Validator(settings).validate(asked("dns-01", "a.test"))
    assert caught.value.type == "dns"


def test_every_challenge_is_known() -> None:
    assert set(CHALLENGES) == {"http-01", "tls-alpn-01", "dns-01", "dns-account-01", "dns-persist-01"}
