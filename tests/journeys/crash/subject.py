"""What a cell is played on: a name of the nginx, a target and a certificate."""

from __future__ import annotations

import itertools
from pathlib import Path

from benchmarks.lab.fleet import APIError
from benchmarks.lab.wire import Seen, verified
from tests.journeys.crash.lane import Lane
from tests.journeys.crash.sites import SHA256, leaf_of

PATIENT_S, HASTY_S = 8.0, 0.3
_NUMBERS = itertools.count(1)
_ASKED = """
  SELECT coalesce((array_agg(details->>'job_ids' ORDER BY id))[$2], '') AS value FROM audit_events
  WHERE resource_id = $1 AND action = 'certificate.renewal_requested'
"""
_ENDED = "('Completed', 'Failed', 'Cancelled')"


class Subject:
    """``created`` and ``renewals`` count requests, ``due`` renewals without one, ``changes`` those of what is wanted.

    Each has to end in one version.
    """

    def __init__(self, lane: Lane, layout: str) -> None:
        number = next(_NUMBERS)
        self.lane, self.layout = lane, layout
        self.name = f"s{number}.example.test"
        self.certificate_id, self.target_id = f"mc-s{number}", f"tgt-s{number}"
        self.created, self.renewals, self.due, self.changes, self.archived = 0, 0, 0, 0, 0
        self.revoked, self.sent, self.drifted = 0, 0, 0
        self.placeholder = lane.sites.add(self.name, layout)
        self.folder = lane.sites.sites[self.name].folder
        self.cert, self.key = lane.sites.sites[self.name].cert_path, lane.sites.sites[self.name].key_path
        paths = {"cert_path": str(self.cert), **({} if layout == "combined" else {"key_path": str(self.key)})}
        probe = {"port": lane.sites.port, "sni": self.name, "timeout_s": PATIENT_S}
        config = {**paths, "layout": layout, "service": lane.sites.name, "probe": probe}
        body = {"id": self.target_id, "name": self.name, "type": "nginx", "config": config}
        lane.patiently(lambda: str(lane.api.post("/api/v1/targets", {**body, "agent_id": lane.agent.agent_id})["id"]))

    @property
    def requests(self) -> int:
        """Return how many versions there have to be in the end."""
        return self.created + self.renewals + self.due + self.changes + self.revoked

    @property
    def pair(self) -> tuple[Path, ...]:
        """Return the files that are a pair at every instant; none in the layout ``separate``."""
        return {"current": (self.cert, self.key), "combined": (self.cert,)}.get(self.layout, ())

    def ask(self) -> None:
        """Ask for the certificate, and for a renewal of it once it is there."""
        if self.created:
            self.renewals += 1
            self.lane.patiently(self._renew, lambda: str(self.lane.value(_ASKED, self.certificate_id, self.renewals)))
        else:
            self.created = 1
            self.lane.patiently(self._create)

    def _renew(self) -> str:
        return str(self.lane.api.post(f"/api/v1/certificates/{self.certificate_id}/renew")["run_id"])

    def _create(self) -> str:
        body = {"id": self.certificate_id, "common_name": self.name, "target_ids": [self.target_id]}
        try:
            return str(self.lane.api.post("/api/v1/certificates", body)["certificate"]["id"])
        except APIError as error:
            if error.status != 409:
                raise
            return self.certificate_id

    def change(self, *, archived: bool) -> None:
        """Want it to live a day longer, and before that, if so wanted, not at all; repeated, it is the same change."""
        path, body = f"/api/v1/certificates/{self.certificate_id}", dict[str, object]()
        if archived:
            self.archived += 1
            self.lane.patiently(lambda: str(self.lane.api.call("DELETE", path, force="true")))
            body |= {"archived": False, "target_ids": [self.target_id]}
        self.changes += 1
        body["lifetime_s"] = (50 + self.changes) * 86400
        self.lane.patiently(lambda: str(self.lane.api.call("PATCH", path, body)["job_ids"]))

    def revoke(self) -> None:
        """Revoke what is served; repeated, it is the same revocation."""
        self.revoked += 1
        self.lane.patiently(self._revoke)

    def _revoke(self) -> str:
        path = f"/api/v1/certificates/{self.certificate_id}/revoke"
        try:
            return str(self.lane.api.post(path, {"reason": "superseded"})["version_ids"])
        except APIError as error:
            if error.status != 409:
                raise
            return "done before"

    def send_again(self) -> None:
        """Have what is served deployed once more."""
        self.sent += 1
        path = f"/api/v1/certificates/{self.certificate_id}/deploy"
        self.lane.patiently(lambda: str(self.lane.api.post(path)["job_ids"]))

    def drift(self) -> None:
        """Let everybody read its key, behind the agent's back; what else is installed the agent has forgotten."""
        self.drifted += 1
        for record in (self.lane.agent.state_dir / "installed").glob("*.json"):
            if record.stem != self.target_id:
                record.unlink()
        self.key.chmod(0o644)

    def drifts_told(self) -> int:
        """Return how often it was told that something is not as it was installed."""
        statement = (
            "SELECT count(*) AS value FROM audit_events WHERE resource_id = $1 AND action = 'certificate.drifted'"
        )
        return int(str(self.lane.value(statement, self.certificate_id)))

    def fall_due(self) -> None:
        """Let time pass for its renewal."""
        self.due += 1
        self.lane.rows(
            "UPDATE holders SET renew_at = now() - interval '1 s' WHERE certificate_id = $1", self.certificate_id
        )

    def mislead(self, timeout_s: float = HASTY_S) -> None:
        """Let the probe look at the decoy: no deployment can prove itself any more."""
        self._probe(self.lane.sites.decoy_port, timeout_s)

    def heal(self) -> None:
        """Let the probe look where it should."""
        self._probe(self.lane.sites.port, PATIENT_S)

    def _probe(self, port: int, timeout_s: float) -> None:
        # A target is not changed over HTTP; the next item has what stands in its row.
        statement = "UPDATE targets SET config = jsonb_set(config, '{probe}', (config->'probe') || $2) WHERE id = $1"
        self.lane.rows(statement.replace("$2", f'\'{{"port": {port}, "timeout_s": {timeout_s}}}\''), self.target_id)

    def seen(self) -> Seen:
        """Shake hands as a browser would, which checks chain, name and dates; raises ``OSError``."""
        return verified(self.lane.sites.port, self.name, self.lane.root_pem)

    def newest(self) -> str:
        """Return the fingerprint of the newest version; nothing before the first."""
        statement = """
          SELECT coalesce((array_agg(fingerprint ORDER BY generation DESC))[1], '') AS value
          FROM certificate_versions WHERE certificate_id = $1
        """
        return str(self.lane.value(statement, self.certificate_id))

    def jobs(self, condition: str) -> int:
        """Return how many of its jobs fulfil an SQL condition."""
        statement = f"SELECT count(*) AS value FROM jobs WHERE certificate_id = $1 AND {condition}"
        return int(self.lane.value(statement, self.certificate_id))

    def versions(self) -> int:
        """Return how many versions were released."""
        statement = "SELECT count(*) AS value FROM certificate_versions WHERE certificate_id = $1"
        return int(self.lane.value(statement, self.certificate_id))

    def live_jobs(self) -> int:
        """Return how many of its jobs have not ended."""
        return self.jobs(f"state NOT IN {_ENDED}")

    def installed(self) -> str:
        """Return the fingerprint of the installed leaf."""
        return leaf_of(self.cert.read_bytes()).fingerprint(SHA256).hex()

    def arrives(self) -> None:
        """Wait until the newest version is what clients see and nothing is left to be done."""

        def done() -> bool:
            issued = self.versions() == self.requests
            return issued and self.live_jobs() == 0 and self.seen().fingerprint == self.newest()

        self.lane.wait(f"{self.name} is served", done)

    def fingerprints(self) -> set[str]:
        """Return those of all its versions."""
        statement = "SELECT fingerprint FROM certificate_versions WHERE certificate_id = $1"
        return {row["fingerprint"] for row in self.lane.rows(statement, self.certificate_id)}
