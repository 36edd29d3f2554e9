"""An ACME client beside a certificate that is asked for: a key, an account, orders, a challenge, and their ends.

A careful client: what it got no answer to it sends again, with a new nonce. In the end each change is there once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from joserfc.jwk import OctKey

from core import acme
from tests.coordinator.acme.client import JOSE, csr_for, new_key, signed
from tests.journeys.crash.lane import PERSPECTIVES, Lane
from tests.journeys.pages import showing

_NUMBERS = itertools.count(1)
_PROVES = "prof-proves"
_TOLD = {
    "acme_eab_key.created": 1,
    "acme_eab_key.disabled": 1,
    "acme_account.created": 2,
    "acme_account.updated": 1,
    "acme_account.key_changed": 1,
    "acme_account.revoked": 1,
    "acme_authorization.created": 1,
    "acme_authorization.deactivated": 1,
    "acme_order.created": 4,
    "acme_order.finalized": 1,
    "acme_challenge.processing": 2,
    "acme_challenge.completed": 2,
}


class Customers:
    """A client and what it has on a lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._key, self._kid = lane, new_key(), ""
        self._number = next(_NUMBERS)
        self._name = f"customer-{self._number}.test"
        profile = {"id": _PROVES, "name": "proves", "max_lifetime_s": 86400, "acme_auth_mode": "challenge"}
        self._base = ""
        if not lane.rows("SELECT FROM profiles WHERE id = $1", _PROVES):
            self._api("POST", "profiles", profile)
            self._api("POST", "agent-groups", {"id": PERSPECTIVES, "name": "perspectives"})

    def change(self) -> None:
        """Go the whole way."""
        made = msgspec.json.decode(self._api("POST", "acme-eab-keys", {"name": self._name}, key=self._name))
        self._base = f"{self._lane.coordinator.url}/acme"
        account = self._register(made)
        self._post(self._kid, {"contact": [f"mailto:x@{self._name}"]})
        self._post(f"{self._base}/new-authz", {"identifier": {"type": "dns", "value": self._name}})
        given_up = self._order(self._name)
        self._post(given_up["authorizations"][0], {"status": "deactivated"})
        order = self._order(self._name)
        self._post(order["finalize"], {"csr": acme.encode(csr_for(self._name))})
        self._wait_for("SELECT count(*) AS value FROM certificate_versions JOIN certificates ON certificates.id = "
                       "certificate_id WHERE common_name = $1", self._name)  # fmt: skip
        self._change_key()
        self._fail_a_challenge()
        self._prove_a_name()
        self._api("POST", f"acme-accounts/{account}/revoke", {})
        self._api("DELETE", f"acme-eab-keys/{made['id']}")

    def _register(self, made: Mapping[str, Any]) -> str:
        url = f"{self._base}/new-account"
        header = {"alg": "HS256", "kid": made["id"], "url": url}
        own = msgspec.json.encode(self._key.as_dict(private=False))
        bound = signed(header, own, OctKey.import_key(acme.decode(made["hmac_key"])))
        self._kid = self._post(url, {"externalAccountBinding": bound}, by_key=True)["location"]
        return self._kid.rpartition("/")[2]

    def _order(self, name: str) -> dict[str, Any]:
        kind = "ip" if name[0].isdigit() else "dns"
        return self._post(f"{self._base}/new-order", {"identifiers": [{"type": kind, "value": name}]})

    def _change_key(self) -> None:
        url, new = f"{self._base}/key-change", new_key()
        inner = {"account": self._kid, "oldKey": self._key.as_dict(private=False)}
        header = {"alg": "ES256", "url": url, "jwk": new.as_dict(private=False)}
        self._post(url, signed(header, msgspec.json.encode(inner), new))
        self._key = new

    def _fail_a_challenge(self) -> None:
        """Order the address of this host, to which nobody is sent; a dead coordinator's look is another's to repeat."""
        self._base, self._kid = f"{self._lane.coordinator.url}/acme/profile/{_PROVES}", ""
        self._kid = self._post(f"{self._base}/new-account", {}, by_key=True)["location"]
        order = self._order("127.0.0.1")
        authorization = self._post(order["authorizations"][0])
        self._post(authorization["challenges"][0]["url"], {})
        self._looked_at(order, "the challenge has failed", "status = 'invalid'")

    def _prove_a_name(self) -> None:
        """Show an answer: nobody is there to see it beside the coordinator at first, and then the agent is."""
        member = f"agent-groups/{PERSPECTIVES}/members/{self._lane.agent.agent_id}"
        address = f"127.0.1.{self._number}"
        order = self._order(address)
        (challenge,) = [
            each for each in self._post(order["authorizations"][0])["challenges"] if each["type"] == acme.HTTP_01
        ]
        with showing(address, self._lane.answers_port, f"{challenge['token']}.{self._key.thumbprint()}"):
            self._post(challenge["url"], {})
            self._looked_at(order, "it was put off", """challenges @? '$[*].put_off'""")
            self._api("PUT", member, {"membership": "include"})
            self._looked_at(
                order, "the agent has seen it", "status = 'valid' AND challenges @? '$[*].evidence.perspectives'"
            )
        self._api("PUT", member, {"membership": "exclude"})

    def _looked_at(self, order: Mapping[str, Any], what: str, condition: str) -> None:
        def ended() -> bool:
            self._lane.rows(
                "UPDATE acme_authorizations SET answered_at = now() - interval '3 minutes' WHERE status = 'pending'"
                " AND answered_at < now() - interval '2 seconds'"
            )
            found = f"SELECT count(*) AS value FROM acme_authorizations WHERE id = $1 AND {condition}"
            return bool(self._lane.value(found, order["authorizations"][0].rpartition("/")[2]) == 1)

        self._lane.wait(what, ended)

    def _wait_for(self, statement: str, *arguments: object) -> None:
        self._lane.wait("it is there once", lambda: self._lane.value(statement, *arguments) == 1)

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        rows = self._lane.rows("SELECT action FROM audit_events WHERE action LIKE 'acme_%'")
        told = Counter(str(row["action"]) for row in rows)
        clients = told["acme_eab_key.created"]
        return [
            f"{told[action]} events {action} of {clients} clients"
            for action, count in _TOLD.items()
            if told[action] != count * clients
        ]

    def _post(self, url: str, payload: Mapping[str, Any] | None = None, *, by_key: bool = False) -> dict[str, Any]:
        """Send a signed request until it is answered; return what came, and where a new thing is."""

        def send() -> str:
            http = self._lane.api.http
            nonce = http.head(f"{self._base}/new-nonce").headers["replay-nonce"]
            who = {"jwk": self._key.as_dict(private=False)} if by_key else {"kid": self._kid}
            body = b"" if payload is None else msgspec.json.encode(payload)
            message = signed({"alg": "ES256", "nonce": nonce, "url": url, **who}, body, self._key)
            response = http.post(url, content=msgspec.json.encode(message), headers=JOSE)
            assert response.is_success, response.text
            return msgspec.json.encode({**response.json(), "location": response.headers.get("location", "")}).decode()

        answer: dict[str, Any] = msgspec.json.decode(self._lane.patiently(send))
        return answer

    def _api(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, key: str = "") -> str:
        def ask() -> str:
            headers = {"Idempotency-Key": key} if key else {}
            response = self._lane.api.http.request(method, f"/api/v1/{path}", json=body, headers=headers)
            assert response.is_success or response.status_code == HTTPStatus.CONFLICT, response.text
            return response.text or "done"

        return self._lane.patiently(ask)
