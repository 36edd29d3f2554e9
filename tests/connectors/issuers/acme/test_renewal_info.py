"""Renewal information and profiles: on a newer Pebble where ``make peers-acme`` built it, and recorded answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography import x509

from connectors.issuers.acme.accounts import Account, Registration, find_or_register
from connectors.issuers.acme.client import Session, session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.orders import Order, new_order
from connectors.issuers.acme.renewal_info import RenewalInfo, renewal_info, select_time
from connectors.issuers.local import make_root
from core.acme import DNS_ACCOUNT_01, DNS_PERSIST_01, HTTP_01, certificate_id_of
from core.csr import build_csr
from core.errors import Misconfigured, Refused, Transient
from core.keys import KeyAlgorithm, generate
from core.names import parse_name
from tests.connectors.issuers.acme.obtaining import obtain
from tests.connectors.issuers.acme.pebble import NEWER, HTTPAnswers, Pebble, TXTAnswers
from tests.connectors.issuers.acme.service import Asked, Reply, serving
from tests.connectors.issuers.test_local import order as ordered

pytestmark = pytest.mark.anyio
SERVERS = ["newer"] if NEWER.exists() else []
PROFILES = {
    "default": {"description": "The usual", "validityPeriod": 7776000},
    "shortlived": {"description": "Six days", "validityPeriod": 518400},
}
NAME = parse_name("renewed.example.test")
CERTIFICATE = x509.load_der_x509_certificate(make_root("Root", datetime.now(UTC)).sign(ordered("www.example.com")))


@pytest.fixture(scope="module", params=SERVERS)
def newer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority that knows renewal information and profiles, and asks for patience."""
    assert request.param
    folder = tmp_path_factory.mktemp("newer")
    authority = Pebble(folder, program=Path(NEWER), profiles=PROFILES, retryAfter={"authz": 1, "order": 1})
    try:
        yield authority.start()
    finally:
        authority.stop()


@pytest.fixture
async def new_account(newer: Pebble) -> AsyncIterator[Account]:
    """An account there."""
    async with session(newer.directory_url, newer.connection) as client:
        yield await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))


async def issue(newer: Pebble, account: Account, **options: Any) -> tuple[Order, x509.Certificate]:
    order = await new_order(account, (NAME,), **options)
    csr = build_csr(generate(KeyAlgorithm.ECDSA_P256), "", (NAME,))
    issued = await obtain(order, csr, {HTTP_01: HTTPAnswers(newer)})
    return order, x509.load_der_x509_certificate(issued.chain[0])


async def test_a_profile_is_ordered_and_one_that_is_not_there_is_told(newer: Pebble, new_account: Account) -> None:
    assert (await new_account.session.directory()).meta.profiles == {
        "default": "The usual",
        "shortlived": "Six days",
    }
    order, leaf = await issue(newer, new_account, profile="shortlived")
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc < timedelta(days=7)
    assert order.state.profile == "shortlived"
    with pytest.raises(Misconfigured, match="it has: default, shortlived"):
        await new_order(new_account, (NAME,), profile="other")


async def test_a_renewal_is_suggested_and_told_as_such(newer: Pebble, new_account: Account) -> None:
    _, leaf = await issue(newer, new_account)
    found = await renewal_info(new_account.session, leaf)
    assert found is not None
    assert leaf.not_valid_before_utc < found.start < found.end < leaf.not_valid_after_utc
    assert 60 <= found.retry_after_s <= 86400
    order, _ = await issue(newer, new_account, replaces=certificate_id_of(leaf))
    assert order.state.replaces == certificate_id_of(leaf)
    # Another one for the same certificate is not refused: it may be that nobody heard of the first.
    again, _ = await issue(newer, new_account, replaces=certificate_id_of(leaf))
    assert again.state.replaces == ""


async def test_an_authority_may_move_the_window(newer: Pebble, new_account: Account) -> None:
    _, leaf = await issue(newer, new_account)
    window = {"start": "2026-01-02T00:00:00Z", "end": "2026-01-03T00:00:00Z"}
    body = {
        "certificate": f"-----BEGIN CERTIFICATE-----\n{_base64(leaf)}\n-----END CERTIFICATE-----\n",
        "ariResponse": _json({"suggestedWindow": window, "explanationURL": "https://ca.test/incident"}),
    }
    newer.set_renewal_info(body)
    found = await renewal_info(new_account.session, leaf)
    assert found is not None
    assert found.start == datetime(2026, 1, 2, tzinfo=UTC)
    assert found.explanation_url == "https://ca.test/incident"


@pytest.mark.parametrize("kind", [DNS_ACCOUNT_01, DNS_PERSIST_01])
async def test_the_newer_dns_challenges_are_answered(newer: Pebble, new_account: Account, kind: str) -> None:
    name = parse_name(f"*.{kind}.example.test")
    order = await new_order(new_account, (name,))
    csr = build_csr(generate(KeyAlgorithm.ECDSA_P256), "", (name,))
    try:
        await obtain(order, csr, {kind: TXTAnswers(newer)})
    except Refused as error:
        assert "the authority offers" in error.detail  # noqa: PT017 - a Pebble may not offer each
        pytest.fail(error.detail)


def _base64(leaf: x509.Certificate) -> str:
    import base64  # noqa: PLC0415 - of use here only

    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - of use here only

    return base64.encodebytes(leaf.public_bytes(serialization.Encoding.DER)).decode().strip()


def _json(value: object) -> str:
    import json  # noqa: PLC0415 - of use here only

    return json.dumps(value)


def recorded(reply: Reply, *, offers: bool = True) -> Any:  # noqa: ANN401 - a function
    def answer(asked: Asked) -> Reply:
        if asked.path == "/dir":
            host = f"https://{asked.headers['host']}"
            places = {name: f"{host}/{name}" for name in ("newNonce", "newAccount", "newOrder")}
            return Reply(body=places | ({"renewalInfo": f"{host}/ari"} if offers else {}))
        return reply

    return answer


async def ask(reply: Reply, *, offers: bool = True) -> tuple[RenewalInfo | None, list[str]]:
    with serving(recorded(reply, offers=offers)) as service:
        async with session(f"{service.url}/dir", service.connection) as client:
            assert isinstance(client, Session)
            return await renewal_info(client, CERTIFICATE), [asked.path for asked in service.asked]


def window(start: str, end: str) -> dict[str, Any]:
    return {"suggestedWindow": {"start": start, "end": end}}


GOOD = window("2026-01-02T04:00:00Z", "2026-01-03T04:00:00.5+01:00")


async def test_recorded_answers_are_read() -> None:
    found, asked = await ask(
        Reply(body=GOOD | {"explanationURL": "https://ca.test/why"}, headers={"Retry-After": "21600"})
    )
    assert asked[1] == f"/ari/{certificate_id_of(CERTIFICATE)}"
    start, end = datetime(2026, 1, 2, 4, tzinfo=UTC), datetime(2026, 1, 3, 3, 0, 0, 500_000, tzinfo=UTC)
    assert found == RenewalInfo(start, end, "https://ca.test/why", 21600)


@pytest.mark.parametrize("said,seconds", [({}, 21600), ({"Retry-After": "1"}, 60), ({"Retry-After": "999999"}, 86400)])
async def test_the_next_time_is_within_reason(said: dict[str, str], seconds: float) -> None:
    found, _ = await ask(Reply(body=GOOD, headers=said))
    assert found is not None
    assert found.retry_after_s == seconds


async def test_where_there_is_none_there_is_none() -> None:
    assert (await ask(Reply(404)))[0] is None
    assert await ask(Reply(), offers=False) == (None, ["/dir"])


@pytest.mark.parametrize(
    "body",
    [
        window("2026-01-03T00:00:00Z", "2026-01-03T00:00:00Z"),
        window("2026-01-03T00:00:00Z", "2026-01-02T00:00:00Z"),
        window("2026-01-02T00:00:00", "2026-01-03T00:00:00Z"),
        {},
    ],
)
async def test_a_window_that_is_none_counts_as_no_answer(body: dict[str, Any]) -> None:
    with pytest.raises(Transient):
        await ask(Reply(body=body))


def test_times_are_spread_evenly_over_the_window() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    given, random = RenewalInfo(start, start + timedelta(hours=10), "", 60), Random(7)
    hours = [(select_time(given, random) - start) / timedelta(hours=1) for _ in range(10_000)]
    assert 0 <= min(hours) < 0.1
    assert 9.9 < max(hours) < 10
    assert all(900 < sum(low <= hour < low + 1 for hour in hours) < 1100 for low in range(10))
