"""Changes to the estate beside a certificate that is asked for: a token, an agent with its target, an issuer.

Each request is repeated by a careful client when no answer comes: under its Idempotency-Key, or with If-Match. In the
end each change is there once, and told once.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from functools import partial
from typing import Any

import msgspec
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from core.wire import Enrollment
from tests.journeys.crash.lane import Lane

_NUMBERS = itertools.count(1)
_DONE_BEFORE = {("DELETE", 404), ("PATCH", 412)}
_TOLD = {
    "enrollment_token.created": 1,
    "enrollment_token.revoked": 1,
    "agent.enrolled": 1,
    "agent.updated": 1,
    "agent.retired": 1,
    "target.created": 2,
    "target.updated": 1,
    "target.removed": 1,
    "issuer.created": 1,
    "issuer.key_added": 2,
    "issuer.updated": 1,
    "issuer.removed": 1,
    "certificate.imported": 1,
    "operation.started": 1,
    "operation.cancelled": 1,
    "operation.ended": 2,
}


class Estate:
    """Things of its own on a lane; ``agent_id`` is an agent that never works."""

    def __init__(self, lane: Lane) -> None:
        self._lane, self._number = lane, next(_NUMBERS)
        token = self._post("enrollment-tokens", {})["token"]
        identity = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        sealing = X25519PrivateKey.generate().public_key().public_bytes_raw()
        message = Enrollment(token, f"idle-{self._number}", identity, sealing, time.time_ns() // 1_000_000)
        answer = lane.patiently(lambda: str(lane.api.post("/api/v1/agents", msgspec.to_builtins(message))["agent_id"]))
        self.agent_id = answer
        self.ids = [f"tgt-e{self._number}", f"tgt-f{self._number}", f"iss-e{self._number}", self.agent_id]
        self.certificates = [f"mc-e{self._number}", f"mc-f{self._number}"]

    def change(self) -> None:
        """Make, change and remove all kinds of things."""
        token_id = self._post("enrollment-tokens", {})["id"]
        self.ids.append(token_id)
        self._call("DELETE", f"enrollment-tokens/{token_id}")
        self._call("PATCH", f"agents/{self.agent_id}", {"name": f"renamed-{self._number}"}, tag='"1"')
        for target_id, certificate_id in zip(self.ids[:2], self.certificates, strict=True):
            config = {"cert_path": f"/{target_id}.pem", "key_path": f"/{target_id}.key"}
            target = {"id": target_id, "name": target_id, "type": "files", "agent_id": self.agent_id, "config": config}
            self._post("targets", target)
            self._post("certificates", {"id": certificate_id, "common_name": "e.test", "target_ids": [target_id]})
        leaf = trustme.CA().issue_cert(f"i{self._number}.test").cert_chain_pems[0].bytes().decode()
        self.ids.append(self._post("certificates/import", {"pem": leaf})["entries"][0]["certificate_id"])
        self._operate()
        self._call("PATCH", f"targets/{self.ids[0]}", {"config": {"probe": {"port": 9}}}, tag='"1"')
        self._call("DELETE", f"targets/{self.ids[0]}?force=true")
        self._call("DELETE", f"agents/{self.agent_id}?force=true&reason=over")
        issuer = self.ids[2]
        self._post("issuers", {"id": issuer, "name": issuer})
        self._post(f"issuers/{issuer}/keys", {})
        self._call("PATCH", f"issuers/{issuer}", {"enabled": False}, tag='"1"')
        keys = self._lane.value("SELECT count(*) AS value FROM issuer_keys WHERE issuer_id = $1", issuer)
        assert keys == 2, "a key was made twice or not at all"
        self._call("DELETE", f"issuers/{issuer}")

    def _operate(self) -> None:
        """Give the certificates to a team in one operation, and plan another one that is not wanted after all."""
        team = f"team-e{self._number}"
        self._post("teams", {"id": team, "name": team})
        started = self._post("certificates/bulk-reassign", {"ids": self.certificates, "team_id": team})
        planned = self._post("certificates/bulk-renew", {"ids": self.certificates, "dry_run": True})
        self._call("POST", f"operations/{planned['snapshot']}/cancel")
        for begun, outcome in ((started, "succeeded"), (planned, "cancelled")):
            operation_id = str(begun["operation"]["id"])
            self.ids.append(operation_id)
            self._lane.wait("the operation has ended", partial(self._ended, operation_id))
            told = "SELECT count(*) AS value FROM operation_items WHERE operation_id = $1 AND outcome = $2"
            assert self._lane.value(told, operation_id, outcome) == len(self.certificates)

    def _ended(self, operation_id: str) -> bool:
        ended = "SELECT finished_at IS NOT NULL AS value FROM operations WHERE id = $1"
        return bool(self._lane.value(ended, operation_id))

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        rows = self._lane.rows("SELECT action FROM audit_events WHERE resource_id = ANY($1)", self.ids)
        told = Counter(str(row["action"]) for row in rows)
        wrong = [f"{told[action]} events {action}" for action, count in _TOLD.items() if told[action] != count]
        changed = "SELECT revision AS value FROM certificates WHERE id = $1"
        wrong += [
            f"{each} was changed more than once" for each in self.certificates if self._lane.value(changed, each) > 2
        ]
        live = "SELECT count(*) AS value FROM jobs WHERE agent_id = $1 AND state <> 'Cancelled'"
        held = "SELECT count(*) AS value FROM holders WHERE agent_id = $1"
        kept = "SELECT count(*) AS value FROM targets WHERE agent_id = $1 AND archived_at IS NULL"
        for what, statement in (("jobs", live), ("holders", held), ("targets", kept)):
            if count := self._lane.value(statement, self.agent_id):
                wrong.append(f"{count} {what} are left of a retired agent")
        return wrong

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make something, once."""
        key = f"{path}-{next(_NUMBERS)}"
        answer: dict[str, Any] = msgspec.json.decode(self._call("POST", path, body, key=key))
        return answer

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, *, key: str = "", tag: str = "") -> str:
        headers = {name: value for name, value in (("Idempotency-Key", key), ("If-Match", tag)) if value}

        def ask() -> str:
            response = self._lane.api.http.request(method, f"/api/v1/{path}", json=body, headers=headers)
            if not response.is_success and (method, response.status_code) not in _DONE_BEFORE:
                message = f"{method} {path}: {response.status_code} {response.text}"
                raise AssertionError(message)
            return response.text or "done"

        return self._lane.patiently(ask)
