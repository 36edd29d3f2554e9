"""Dynamic updates, waiting for all servers, and delegated validation, on a real BIND; an order by them on Pebble."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.lab.processes import free_ports
from connectors.issuers.acme.accounts import Registration, find_or_register
from connectors.issuers.acme.challenges import Challenge
from connectors.issuers.acme.client import session
from connectors.issuers.acme.dns import lookup, propagation
from connectors.issuers.acme.dns.answerer import DNSAnswerer
from connectors.issuers.acme.dns.base import TXTRecord
from connectors.issuers.acme.dns.lookup import DNSConfig, follow, servers_of, zone_of
from connectors.issuers.acme.dns.rfc2136 import RFC2136, TSIGAlgorithm
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.orders import new_order
from core.acme import DNS_01, DNS_PERSIST_01
from core.csr import build_csr
from core.errors import DeadlineExceeded, Forbidden, InvalidInput, Misconfigured, NotFound, Refused, Transient
from core.keys import KeyAlgorithm, generate
from core.names import parse_name
from core.secret import Secret
from tests.connectors.issuers.acme.dns.bind import KEYS, READER, Bind, Lagging
from tests.connectors.issuers.acme.obtaining import obtain
from tests.connectors.issuers.acme.pebble import Pebble
from tests.connectors.issuers.acme.times import QuickTimer

pytestmark = pytest.mark.anyio
NUMBERS = count(1)


def record(zone: str = "example.test", value: str = "value") -> TXTRecord:
    return TXTRecord(f"_acme-challenge.n{next(NUMBERS)}.{zone}", value)


@pytest.mark.parametrize("algorithm", list(TSIGAlgorithm))
async def test_records_of_one_name_come_and_go_one_by_one(bind: Bind, algorithm: TSIGAlgorithm) -> None:
    provider, first = RFC2136(bind.config(algorithm)), record()
    second = TXTRecord(first.fqdn, 'spaced; with "quotes" inside')
    for each in (first, first, second):
        await provider.present(each)
    assert bind.records(first.fqdn) == ['spaced; with \\"quotes\\" inside', "value"]
    for _ in range(2):
        await provider.clean_up(first)
    assert bind.records(first.fqdn) == ['spaced; with \\"quotes\\" inside']


async def test_a_server_may_be_named_and_the_zone_as_well(bind: Bind) -> None:
    wanted = record()
    await RFC2136(bind.config(server="localhost", zone="example.test.")).present(wanted)
    assert bind.records(wanted.fqdn) == ["value"]


async def test_a_key_that_is_wrong_or_may_not_write_is_told_without_itself(bind: Bind) -> None:
    wrong = "d3Jvbmc" + "t" * 8 + "="
    cases = [
        (bind.config(key_secret=Secret(wrong)), Misconfigured),
        (bind.config(key_name="unknown"), Misconfigured),
        (bind.config(key_name=READER), Forbidden),
        (bind.config(zone="other.test"), Misconfigured),
        (bind.config(server="nowhere.invalid"), Transient),
        (bind.config(port=free_ports(1)[0], zone="example.test"), Transient),
    ]
    for config, kind in cases:
        with pytest.raises(kind) as caught:
            await RFC2136(config).present(record())
        assert not any(secret in str(caught.value) for secret in (*KEYS.values(), wrong))
    with pytest.raises(NotFound, match="has no zone"):
        await RFC2136(bind.config()).present(record("elsewhere.test"))
    with pytest.raises(Misconfigured, match="answered NOT"):
        await RFC2136(bind.config(zone="n.example.test")).present(TXTRecord("a.n.example.test", "value"))
    with pytest.raises(InvalidInput, match="key_secret"):
        RFC2136(bind.config(key_secret=Secret("no base64!")))
    assert wrong not in repr(bind.config(key_secret=Secret(wrong)))


async def test_aliases_are_followed_to_the_zone_where_the_record_is_written(bind: Bind, asking: DNSConfig) -> None:
    assert await follow(asking, "_acme-challenge.alias.example.test") == "second.delegated.test"
    assert await follow(asking, "_acme-challenge.none.example.test") == "_acme-challenge.none.example.test"
    assert await zone_of(asking, "second.delegated.test") == "delegated.test"
    assert await servers_of(asking, "delegated.test") == [("ns.delegated.test", ("127.0.0.1",))]
    with pytest.raises(Refused, match="go round"):
        await follow(asking, "_acme-challenge.round.example.test")
    answerer = DNSAnswerer(RFC2136(bind.config()), asking)
    given = challenge("alias.example.test")
    await answerer.present(given)
    assert bind.records("second.delegated.test") == [given.dns_value]
    await answerer.clean_up(given)
    assert bind.records("second.delegated.test") == []


async def test_the_wait_is_for_every_server_and_names_the_one_that_lags(
    servers: tuple[Bind, Lagging], asking: DNSConfig
) -> None:
    first, second = servers
    second.values = []
    wanted = record("slow.test")
    await RFC2136(first.config()).present(wanted)
    with pytest.raises(
        DeadlineExceeded, match=r"ns2\.slow\.test \(127\.0\.0\.2\) answers with no such record"
    ) as found:
        await propagation.wait(asking, wanted.fqdn, "value", QuickTimer())
    assert "ns1" not in found.value.detail
    second.values = ["older"]
    with pytest.raises(DeadlineExceeded, match="answers with older"):
        await propagation.wait(asking, wanted.fqdn, "value", QuickTimer())
    timer = QuickTimer()
    second.values = ["older", "value"]
    await propagation.wait(replace(asking, settle_s=7.0), wanted.fqdn, "value", timer)
    assert timer.slept == [7.0]
    await propagation.wait(replace(asking, propagation_deadline_s=0), wanted.fqdn, "never")


async def test_a_server_that_is_silent_is_named(bind: Bind, asking: DNSConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_LIFETIME_S", 0.3)
    wanted = record("slow.test")
    dead = DNSConfig(nameservers=("127.0.0.1",), port=free_ports(1)[0], propagation_deadline_s=1)
    with pytest.raises(Transient, match=r"could not be looked up|was not found"):
        await propagation.wait(dead, wanted.fqdn, "value", QuickTimer())
    with pytest.raises(Transient, match="no resolver is usable"):
        await follow(DNSConfig(nameservers=("not an address",)), wanted.fqdn)
    with pytest.raises(Transient, match="no server with an address"):
        await servers_of(asking, "nowhere.example.test")


async def test_a_record_that_is_meant_to_stay_stays(bind: Bind, asking: DNSConfig) -> None:
    answerer = DNSAnswerer(RFC2136(bind.config()), asking)
    given = challenge("stays.example.test", DNS_PERSIST_01)
    await answerer.present(given)
    await answerer.clean_up(given)
    (value,) = bind.records("_validation-persist.stays.example.test")
    assert value == "ca.example; accounturi=https://ca.test/account/1; policy=wildcard"


async def test_a_wildcard_and_its_base_are_issued_by_signed_updates(
    bind: Bind, asking: DNSConfig, tmp_path: Path
) -> None:
    pebble = Pebble(tmp_path / "pebble", dns_server=f"127.0.0.1:{bind.port}")
    names = tuple(parse_name(name) for name in ("alias.example.test", "*.alias.example.test", "b.example.test"))
    answerer = DNSAnswerer(RFC2136(bind.config()), asking)
    try:
        pebble.start()
        async with session(pebble.directory_url, pebble.connection) as client:
            account = await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
            order = await new_order(account, names)
            csr = build_csr(generate(KeyAlgorithm.ECDSA_P256), "", names)
            began = time.monotonic()
            assert len((await obtain(order, csr, {DNS_01: answerer})).chain) == 2
            assert time.monotonic() - began < 30
    finally:
        pebble.stop()
    assert bind.records("second.delegated.test") == bind.records("_acme-challenge.b.example.test") == []


def challenge(name: str, kind: str = DNS_01) -> Challenge:
    return Challenge(
        type=kind,
        name=parse_name(name),
        wildcard=True,
        url="https://ca.test/challenge/1",
        authorization_url="https://ca.test/authorization/1",
        status="pending",
        token="token",
        key_authorization="token.thumbprint",
        account_url="https://ca.test/account/1",
        issuer_domain="ca.example",
    )
