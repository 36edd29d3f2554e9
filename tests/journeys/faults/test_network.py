"""The network between an agent and its coordinator goes away while a deployment, and while an issuance is under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from benchmarks.lab.processes import wait_until
from benchmarks.lab.wire import look
from coordinator.database import driver
from tests.journeys.faults.relay import Behind, Relay, relay_to
from tests.journeys.stage import Journey, Stage, fetch, still

pytestmark = pytest.mark.timeout(180)
SITE = "shop.example.test"


class Far:
    """One certificate, whose agent finds its coordinator at the other end of a relay; its reload can be held up."""

    def __init__(self, stage: Stage, relay: Relay, journey: Journey, dsn: str) -> None:
        self.relay, self.journey, self.dsn = relay, journey, dsn
        self.server = stage.nginx("web", SITE)
        self.slow, self.entered, self.go_on = (stage.folder / name for name in ("slow", "entered", "go-on"))
        reload = f"exec {self.server.process.argv[0]} -s reload -c {self.server.config}"
        wait = f"if test -e {self.slow}; then touch {self.entered}; until test -e {self.go_on}; do sleep 0.02; done; fi"
        policy = (
            f"{self.server.policy()}reload_action = 'slow'\n"
            f"[actions.slow]\nargv = ['/bin/sh', '-c', '{wait}; {reload}']\n"
        )
        self.agent = stage.agent("edge", Behind(relay, journey.coordinator), policy)
        self.certificate_id = journey.want(SITE, journey.target(self.agent, self.server, SITE))
        self.seen = journey.served(self.server, SITE)
        journey.settled(self.certificate_id)

    def log(self) -> str:
        """Return what the agent has said."""
        return self.agent.process.log.read_text()

    def lasts(self, attempts: int) -> None:
        """Let the outage last for some of the agent's attempts."""
        before = self.relay.refused
        wait_until(f"{attempts} attempts in vain", lambda: self.relay.refused >= before + attempts)

    def heals(self, versions: int) -> None:
        """See the newest certificate served and known to be, with one version for each request."""
        self.journey.settled(self.certificate_id)
        found = self.journey.versions(self.certificate_id)
        assert [version["generation"] for version in found] == list(range(versions, 0, -1))
        seen = look(self.server.port, SITE)
        assert seen is not None
        assert seen.fingerprint == found[0]["fingerprint"]
        jobs = self.journey.api.get("/api/v1/jobs", certificate_id=self.certificate_id)["data"]
        assert {(job["state"], job["attempt"]) for job in jobs} == {("Completed", 1)}
        assert len(jobs) == 2 * versions


@pytest.fixture
def far(empty_database_url: str, stage: Stage) -> Iterator[Far]:
    """Everything runs and is served through the relay, before the trouble begins."""
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url)
    journey = Journey(coordinator)
    with relay_to(int(coordinator.url.rpartition(":")[2])) as relay:
        yield Far(stage, relay, journey, empty_database_url)


def test_the_network_goes_away_and_comes_back(far: Far) -> None:
    """Once in the middle of a deployment, once in that of an issuance, whose request and whose answer are lost.

    Each work is done once, by the same process, and nobody helps.
    """
    pid = far.agent.process.pid
    _in_a_deployment(far)
    _in_an_issuance(far)
    assert far.agent.process.pid == pid
    assert far.log().count('"call_failed"') <= 4, "a trouble is told when it is new, not with each attempt"


def _in_a_deployment(far: Far) -> None:
    far.slow.touch()
    far.journey.renew(far.certificate_id)
    wait_until("the reload begins", far.entered.exists)
    far.relay.cut()
    still(far.server, SITE, far.seen)
    far.go_on.touch()
    far.seen = far.journey.served(far.server, SITE, instead_of=far.seen)
    wait_until("the agent has nobody to tell", lambda: '"call": "report"' in far.log())
    far.lasts(4)
    status = far.journey.api.get(f"/api/v1/certificates/{far.certificate_id}")["status"]
    assert (status["service"], status["reason"]) == ("outdated", "deployment is queued"), "nobody has heard of its end"
    far.relay.mend()
    far.heals(2)
    far.slow.unlink()


def _in_an_issuance(far: Far) -> None:
    wait_until("a poll waits", lambda: b"certctl_polls_waiting 1.0" in fetch(far.journey.coordinator.metrics_url))
    # That poll has been sent; what the agent sends from here on does not arrive.
    far.relay.hold_requests()
    far.journey.renew(far.certificate_id)
    wait_until("the agent has a key and a request", lambda: bool(_requests(far)) and far.relay.held > 0)
    far.relay.cut()
    wait_until("the agent notices", lambda: '"call": "submit CSR"' in far.log())
    far.lasts(4)
    assert len(far.journey.versions(far.certificate_id)) == 2
    # Now the request arrives and its answer is lost: the certificate is issued, and nobody hears of it.
    with _no_version_is_stored(far.dsn):
        far.relay.mend()
        wait_until("the request has arrived", lambda: _issuance(far)["state"] == "AwaitingCA")
        far.relay.lose_answers()
    wait_until("it is issued", lambda: _issuance(far)["state"] == "Completed")
    wait_until("the answer is lost", lambda: far.relay.lost > 0)
    far.relay.cut()
    far.lasts(1)
    still(far.server, SITE, far.seen)
    assert _requests(far), "the agent keeps its request until it has an answer"
    far.relay.mend()
    far.seen = far.journey.served(far.server, SITE, instead_of=far.seen)
    far.heals(3)
    wait_until("the agent has its answer", lambda: not _requests(far))


def _issuance(far: Far) -> dict[str, Any]:
    newest: dict[str, Any] = far.journey.api.get("/api/v1/jobs", certificate_id=far.certificate_id, kind="issuance")[
        "data"
    ][0]
    return newest


@contextmanager
def _no_version_is_stored(dsn: str) -> Iterator[None]:
    """Let the coordinator take requests, write down what it is about to sign, and wait there."""
    with start_blocking_portal("asyncio") as portal:
        connection = portal.call(driver.connect, dsn, {})
        try:
            portal.call(connection.execute, "BEGIN; LOCK TABLE certificate_versions IN SHARE MODE")
            yield
        finally:
            portal.call(connection.close)


def _requests(far: Far) -> list[Path]:
    return list(far.agent.state_dir.glob("keys/*/*.request"))
