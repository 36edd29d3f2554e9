"""Looks from an agent's host, on real DNS and web servers: what the host allows is looked at, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest
import trio

from agent import perspective
from agent.perspective import Looks
from agent.policy import HostPolicy, Perspective
from core.names import parse_name
from core.wire import LookItem, LookReport, Receipt
from tests.connectors.validation.nameserver import Nameserver, Said, nameserver, zone
from tests.connectors.validation.web import Web, redirects, says, web
from tests.connectors.validation.world import ACCOUNT, KEY_AUTHORIZATION, THUMBPRINT, TOKEN

pytestmark = pytest.mark.trio
LOOPBACK = ("127.0.0.0/8",)


class Client:
    """A coordinator that remembers what it is told."""

    def __init__(self) -> None:
        self._tell, self.told = trio.open_memory_channel[LookReport](100)

    async def report_look(self, look_id: str, report: LookReport) -> Receipt:
        assert look_id.startswith("look-")
        await self._tell.send(report)
        return Receipt(report.state)


@dataclass
class Stand:
    """An agent's looks, by a policy that may change."""

    nursery: trio.Nursery
    client: Client = field(default_factory=Client)
    policy: HostPolicy = field(default_factory=HostPolicy)
    number: int = 0

    def __post_init__(self) -> None:
        self.looks = Looks(self.client, lambda: self.policy, trio.Event())  # type: ignore[arg-type]  # all that it calls

    def rule(self, names: Nameserver, page: Web | None = None, **more: Any) -> None:
        fields: dict[str, Any] = {"enabled": True, "resolvers": (f"127.0.0.1:{names.port}",)}
        fields |= {"http_port": page.port} if page is not None else {}
        self.policy = HostPolicy(perspective=Perspective(**{**fields, **more}))

    async def look(self, **changes: Any) -> LookReport:
        self.number += 1
        self.looks.take(item(number=self.number, **changes), self.nursery)
        with trio.fail_after(10):
            return await self.client.told.receive()


@asynccontextmanager
async def stand() -> AsyncIterator[Stand]:
    async with trio.open_nursery() as nursery:
        yield Stand(nursery)
        nursery.cancel_scope.cancel()


def item(name: str = "a.test", kind: str = "http-01", number: int = 1, **more: Any) -> LookItem:
    fields = {"look_id": f"look-{number}", "type": kind, "name": parse_name(name), "wildcard": False, "token": TOKEN}
    return LookItem(**{**fields, "thumbprint": THUMBPRINT, "account_url": ACCOUNT, **more})


async def test_a_host_that_says_nothing_is_no_perspective() -> None:
    """Nobody is asked anything, and the answer says what would change that."""
    async with nameserver(zone(A=["127.0.0.1"])) as names, stand() as place:
        report = await place.look()
        assert (report.state, names.asked) == ("none", [])
        assert "set enabled = true in [perspective] in /etc/certctl/agent.toml" in report.detail


async def test_it_is_looked_at_and_told_with_evidence() -> None:
    async with nameserver(zone(A=["127.0.0.1"])) as names, web(says(KEY_AUTHORIZATION)) as page, stand() as place:
        place.rule(names, page, allowed_networks=LOOPBACK)
        report = await place.look()
        (evidence,) = report.evidence
        assert (report.state, report.type, evidence.addresses) == ("seen", "", ("127.0.0.1",))
        assert evidence.resolvers == (f"127.0.0.1:{names.port}",)


async def test_another_answer_is_told_as_what_it_is() -> None:
    async with nameserver(zone(A=["127.0.0.1"])) as names, web(says("x\x1b" * 500)) as page, stand() as place:
        place.rule(names, page, allowed_networks=LOOPBACK)
        report = await place.look()
        assert (report.state, report.type) == ("failed", "incorrectResponse")
        assert (len(report.evidence[0].answer), report.evidence[0].answer.isprintable()) == (200, True)
        assert report.detail.isprintable()


@pytest.mark.parametrize(
    "address,why",
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("169.254.0.7", "link-local"),
        ("10.0.0.1", "is a private address"),
        ("172.16.0.1", "is a private address"),
        ("192.168.1.1", "is a private address"),
        ("100.64.0.1", "is a private address"),
        ("fd12::1", "is a private address"),
        ("::ffff:10.0.0.1", "hides 10.0.0.1, which is a private address"),
        ("64:ff9b::10.0.0.1", "hides 10.0.0.1, which is a private address"),
        ("169.254.169.254", "metadata"),
        ("100.100.100.200", "metadata"),
    ],
)
async def test_addresses_that_a_host_has_to_name(address: str, why: str) -> None:
    """Whatever a coordinator asks for; by name, and by a redirect from where it may be asked."""
    kind = "A" if ip_address(address).version == 4 else "AAAA"

    def says_what(name: str, asked: str) -> Said:
        return {("inside.test", kind): [address], ("a.test", "A"): ["127.0.0.2"]}.get((name, asked), [])

    async with (
        nameserver(says_what) as names,
        web(redirects("http://inside.test/"), "127.0.0.2") as page,
        stand() as place,
    ):
        place.rule(names, page, allowed_networks=("127.0.0.2/32",))
        for name in ("inside.test", "a.test"):
            report = await place.look(name=name)
            assert (report.state, report.type) == ("failed", "connection")
            assert why in report.detail


async def test_metadata_services_are_never_dialled() -> None:
    async with nameserver(zone(A=["169.254.169.254"])) as names, stand() as place:
        place.rule(names, allowed_networks=("0.0.0.0/0",))
        assert "metadata" in (await place.look()).detail


async def test_the_ports_are_the_hosts_own() -> None:
    """There is no field by which a coordinator could name another one, and redirects do not lead to one either."""
    assert not {
        name for name in LookItem.__struct_fields__ if "port" in name or "resolver" in name or "network" in name
    }
    assert (Perspective().http_port, Perspective().tls_port) == (80, 443)
    async with nameserver(zone(A=["127.0.0.1"])) as names, web(says(KEY_AUTHORIZATION)) as other, stand() as place:
        async with web(redirects(f"http://a.test:{other.port}/")) as page:
            place.rule(names, page, allowed_networks=LOOPBACK)
            report = await place.look()
        assert "only ports" in report.detail
        assert other.requests == []


async def test_caa_is_looked_at_for_the_authority_that_asks() -> None:
    records = {"A": ["127.0.0.1"], "CAA": ['0 issue "other.test"']}
    async with nameserver(zone(**records)) as names, web(says(KEY_AUTHORIZATION)) as page, stand() as place:
        place.rule(names, page, allowed_networks=LOOPBACK)
        report = await place.look(caa_identities=("ca.test",))
        assert (report.state, report.type) == ("failed", "caa")
        assert [each.challenge for each in report.evidence] == ["http-01", "caa"]
        assert (await place.look(caa_identities=("other.test",))).state == "seen"
        assert len((await place.look()).evidence) == 1


async def test_rules_that_change_hold_from_the_next_look_on() -> None:
    async with nameserver(zone(A=["127.0.0.1"])) as names, web(says(KEY_AUTHORIZATION)) as page, stand() as place:
        place.rule(names, page, allowed_networks=LOOPBACK)
        assert (await place.look()).state == "seen"
        place.rule(names, page)
        assert "loopback" in (await place.look()).detail
        place.policy = HostPolicy()
        assert (await place.look()).state == "none"


async def test_no_more_than_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond that is left to be offered again; what has no place in time was not looked at."""
    monkeypatch.setattr(perspective, "DEADLINE_S", 0.3)
    async with nameserver(lambda *_: None) as names, stand() as place:
        place.rule(names)
        for number in range(200):
            place.looks.take(item(number=number, kind="dns-01"), place.nursery)
        place.looks.take(item(number=0, kind="dns-01"), place.nursery)
        await trio.sleep(0.1)
        assert len(names.asked) <= 10
        with trio.fail_after(20):
            reports = [await place.client.told.receive() for _ in range(perspective.MOST_IN_HAND)]
        assert {report.state for report in reports} == {"failed", "busy"}
        with trio.move_on_after(0.2) as nothing_more:
            await place.client.told.receive()
        assert nothing_more.cancelled_caught
