"""Certificates from an ACME authority beside a certificate that is asked for: ordered, revoked there, refused by it.

Whatever dies meanwhile: the authority issues each once, and each is there once.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from tests.journeys.crash.lane import Lane

_NUMBERS = itertools.count(1)
_COUNT = "SELECT count(*) AS value FROM"
_TOLD = {
    "issuer_account.key_made": 3,
    "issuer_account.registered": 2,
    "issuer_account.rolled_over": 1,
    "certificate.revocation_told": 1,
}
"""Events of one round; the attempts that are refused are more the longer they take."""


class Orders:
    """An issuer that proves names through the agent, and one that proves them in the DNS."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._number = lane, next(_NUMBERS)
        self._pebble = lane.pebble()
        self._issued = self._pebble.asked("Issued certificate serial")
        self._before = self._told()
        script = lane.folder / "dns" / "txt"
        script.parent.mkdir(exist_ok=True)
        control = f"http://127.0.0.1:{self._pebble.control}"
        script.write_text(
            '#!/bin/sh\nexec curl -sf -d "{\\"host\\":\\"$CERTCTL_DNS_FQDN.\\",\\"value\\":\\"$CERTCTL_DNS_VALUE\\"}" '
            f'"{control}/$1"\n'
        )
        script.chmod(0o755)
        self._script = str(script)

    def change(self) -> None:
        """Go the whole way."""
        by_agent = self._issuer("a", challenge_type="http-01")
        lookup = {"propagation_deadline_s": 0}
        script = {"present": [self._script, "set-txt"], "clean_up": [self._script, "clear-txt"]}
        in_dns = self._issuer("d", challenge_type="dns-01", dns={"script": script, "lookup": lookup})
        first, second = self._certificate(by_agent, "a"), self._certificate(in_dns, "d")
        for each in (first, second):
            self._wait("it is issued", f"{_COUNT} certificate_versions WHERE certificate_id = $1", each)
        window = f"{_COUNT} ca_renewals WHERE certificate_id = $1 AND check_at > now() + interval '1 h'"
        self._wait("the authority was asked when to renew", window, first)
        self._api("POST", f"issuers/{by_agent}/accounts/roll-over", key=f"roll {self._number}")
        former = f"{_COUNT} issuer_accounts WHERE issuer_id = $1 AND state = 'former'"
        self._wait("the account has another key", former, by_agent)
        self._api("POST", f"certificates/{first}/revoke", {"reason": "cessationOfOperation"}, key=f"rev {self._number}")
        told = f"{_COUNT} ca_revocations JOIN certificate_versions ON id = version_id WHERE"
        self._wait("the authority knows", f"{told} certificate_id = $1 AND done_at IS NOT NULL", first)
        refused = self._certificate(by_agent, "blocked")
        failed = "SELECT least(count(*), 1) AS value FROM ca_orders WHERE certificate_id = $1 AND status = 'failed'"
        self._wait("the authority has refused", failed, refused)
        for each in (first, second, refused):
            self._api("DELETE", f"certificates/{each}")

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        issued = self._pebble.asked("Issued certificate serial") - self._issued
        told = self._told() - self._before
        wrong = [f"the authority has issued {issued} certificates, not 2"] if issued != 2 else []
        wrong += [f"{told[name]} events {name}, not {count}" for name, count in _TOLD.items() if told[name] != count]
        shown = "SELECT id FROM ca_challenges WHERE agent_id IS NOT NULL AND state IN ('wanted', 'shown')"
        return wrong + [f"{row['id']} is still shown" for row in self._lane.rows(shown)]

    def _told(self) -> Counter[str]:
        rows = self._lane.rows("SELECT action FROM audit_events WHERE action = ANY($1)", list(_TOLD))
        return Counter(str(row["action"]) for row in rows)

    def _issuer(self, kind: str, **config: Any) -> str:
        name = f"{kind}{self._number}"
        connection = {"ca_bundle": self._pebble.root}
        fixed = {"directory_url": self._pebble.directory_url, "terms_agreed": True, "connection": connection}
        body = {"id": f"iss-o{name}", "name": f"orders {name}", "type": "acme", "config": {**fixed, **config}}
        self._api("POST", "issuers", body, key=f"issuer {name}")
        profile = {"id": f"prof-o{name}", "name": f"orders {name}", "max_lifetime_s": 90 * 86400}
        self._api("POST", "profiles", {**profile, "default_issuer_id": body["id"]}, key=f"profile {name}")
        return str(body["id"])

    def _certificate(self, issuer_id: str, kind: str) -> str:
        host = "www.blocked.test" if kind == "blocked" else f"{kind}{self._number}.orders.test"
        body = {
            "id": f"mc-o{kind}{self._number}",
            "common_name": host,
            "agent_id": self._lane.agent.agent_id,
            "profile_id": issuer_id.replace("iss-", "prof-"),
        }
        self._api("POST", "certificates", body, key=f"certificate {kind} {self._number}")
        return str(body["id"])

    def _wait(self, what: str, statement: str, *arguments: object) -> None:
        self._lane.wait(what, lambda: self._lane.value(statement, *arguments) == 1, 70)

    def _api(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, key: str = "") -> str:
        def ask() -> str:
            headers = {"Idempotency-Key": key} if key else {}
            response = self._lane.api.http.request(method, f"/api/v1/{path}", json=body, headers=headers)
            gone = method == "DELETE" and response.status_code == HTTPStatus.NOT_FOUND
            assert response.is_success or gone or response.status_code == HTTPStatus.CONFLICT, response.text
            return json.dumps(response.json()) if response.content else "done"

        return self._lane.patiently(ask)
