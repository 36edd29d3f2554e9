"""What no well-behaved authority answers: ends in passing, tokens that are paths, names that nobody ordered."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from connectors.issuers.acme.accounts import Account
from connectors.issuers.acme.challenges import AuthorizationDocument
from connectors.issuers.acme.client import Directory, Session, session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.orders import Order, new_order
from connectors.issuers.acme.state import OrderState
from connectors.issuers.acme.transport import Answer
from core.acme import HTTP_01, URN
from core.errors import DeadlineExceeded, Refused, Transient
from core.names import parse_name
from tests.connectors.issuers.acme.service import Asked, Reply, serving
from tests.connectors.issuers.acme.times import QuickTimer

pytestmark = pytest.mark.anyio
BASE = "https://ca.test"
NAME = parse_name("www.example.test")


class Scripted(Account):
    """An account whose requests are answered by their address."""

    def __init__(self, answers: dict[str, dict[str, Any]]) -> None:
        client = Session(None, f"{BASE}/dir", timer=QuickTimer())  # type: ignore[arg-type]  # nothing is sent
        client._directory = Directory(BASE, BASE, f"{BASE}/new"), client.clock.now()
        super().__init__(client, AccountKey.new(), f"{BASE}/account")
        object.__setattr__(self, "answers", answers)
        object.__setattr__(self, "asked", [])

    async def post(self, url: str, payload: object, *, what: str, accept: str = "application/json") -> Answer:
        self.asked.append(url)  # type: ignore[attr-defined]  # see above
        body = msgspec.json.encode(self.answers[url])  # type: ignore[attr-defined]  # see above
        return Answer(200, url, {"location": f"{BASE}/order"}, body, 0.0)


def document(status: str, **more: object) -> dict[str, Any]:
    return {"status": status, "finalize": f"{BASE}/fin", "authorizations": [f"{BASE}/authz"], **more}


def authorization(token: str, status: str = "pending", **more: object) -> dict[str, Any]:
    challenge = {"type": HTTP_01, "url": f"{BASE}/chall", "token": token, "status": status, **more}
    identifier = {"type": "dns", "value": str(NAME)}
    return {"identifier": identifier, "status": "pending", "challenges": [challenge]}


async def test_an_order_is_kept_before_anything_else_is_done_with_it() -> None:
    kept = list[OrderState]()

    async def save(state: OrderState) -> None:
        kept.append(state)

    order = await new_order(Scripted({f"{BASE}/new": document("pending")}), (NAME,), save=save)
    assert kept == [order.state]


async def test_an_end_that_may_pass_with_a_new_order_ends_the_waiting() -> None:
    error = {"type": URN + "connection", "detail": "timeout"}
    failed = authorization("token", "invalid", error=error) | {"status": "invalid"}
    account = Scripted(
        {f"{BASE}/new": document("pending"), f"{BASE}/order": document("invalid"), f"{BASE}/authz": failed}
    )
    order = await new_order(account, (NAME,))
    with pytest.raises(Transient, match=r"by http-01: timeout") as caught:
        await order.wait_until_ready()
    assert not isinstance(caught.value, DeadlineExceeded)
    assert order.state.is_over
    assert account.asked.count(f"{BASE}/order") == 1  # type: ignore[attr-defined]  # see above


async def test_a_challenge_that_is_looked_at_already_is_not_accepted_again() -> None:
    account = Scripted({f"{BASE}/new": document("pending"), f"{BASE}/authz": authorization("token", "processing")})
    order: Order = await new_order(account, (NAME,))
    (found,) = await order.authorizations()
    await order.accept(found.challenges[0])
    assert f"{BASE}/chall" not in account.asked  # type: ignore[attr-defined]  # see above


@pytest.mark.parametrize("token", ["", "../../etc/passwd", "a b", "a\r\nb", "x" * 300, "token=", "tökén"])
def test_a_token_that_would_be_a_path_is_not_answered(token: str) -> None:
    read = msgspec.convert(authorization(token), AuthorizationDocument)
    assert read.read(f"{BASE}/authz", account_url=BASE, thumbprint="t").challenges == ()


@pytest.mark.parametrize("identifier", [{"type": "ip", "value": "www.example.test"}, {"type": "x", "value": "a.test"}])
def test_a_name_of_another_kind_is_not_answered(identifier: dict[str, str]) -> None:
    read = msgspec.convert(authorization("token") | {"identifier": identifier}, AuthorizationDocument)
    with pytest.raises(Refused, match="was not ordered"):
        read.read(f"{BASE}/authz", account_url=BASE, thumbprint="t")


async def test_a_nonce_is_used_once_and_old_ones_go_with_one_that_was_not_taken() -> None:
    used = list[str]()

    def answer(asked: Asked) -> Reply:
        if asked.path == "/dir":
            host = f"https://{asked.headers['host']}"
            return Reply(body={name: f"{host}/{name}" for name in ("newNonce", "newAccount", "newOrder")})
        if asked.path == "/newNonce":
            return Reply(headers={"Replay-Nonce": f"n{len(used)}"})
        used.append(asked.path)
        return Reply(400, {"type": URN + "badNonce"}) if len(used) == 1 else Reply(body={})

    with serving(answer) as service:
        async with session(f"{service.url}/dir", service.connection) as client:
            client._nonces.extend(["old-1", "old-2", "old-3"])
            await client.post(f"{service.url}/thing", None, AccountKey.new(), what="trying")
            assert client._nonces == []
