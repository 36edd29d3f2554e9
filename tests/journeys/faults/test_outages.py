"""The database stops answering, or is restarted, while renewals are asked for all the time.

A frozen server is the worse one: it refuses nothing, so only deadlines tell that it is away.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.lab.postgres import PASSWORD, OwnPostgres, thaw
from benchmarks.lab.processes import wait_until
from benchmarks.lab.wire import Seen
from tests.journeys.faults.demand import Demand, Refusal
from tests.journeys.stage import Journey, Stage, playing

FREEZE_S = float(os.environ.get("CERTCTL_TEST_FREEZE_S", "13"))
"""A little longer than the ten seconds after which a caller hears that no connection can be had."""
BOUND_S = 60.0
"""By when every request has its answer: the deadlines for a connection, for a statement, and for giving it back."""
HEALED_S = 60.0
ASKERS = 30
"""More than the pool has connections, so that some wait for a statement and some for a connection."""
PASSING = {(503, "transient"), (504, "deadline-exceeded")}
"""A database that is away, and one that takes too long: what callers and agents try again."""
CAUSE = "the database took too long to answer|database is not reachable|another change to the same data came first"
"""The last one is said to who waited for a row of somebody whose statement hung."""
SITES = tuple(f"shop-{number}.example.test" for number in range(3))

pytestmark = pytest.mark.timeout(240 + FREEZE_S)


class Shop:
    """A database of its own, one coordinator, one agent, and an nginx with a certificate for each site."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.database = OwnPostgres(folder / "database")
        stage.keep(self.database.process)
        self.database.start()
        self.coordinator = stage.coordinator(CERTCTL_DATABASE_URL=self.database.url)
        self.server = stage.nginx("web", *SITES)
        self.agent = stage.agent("edge", self.coordinator, self.server.policy())
        self.journey = Journey(self.coordinator)
        self.certificates = {
            site: self.journey.want(site, self.journey.target(self.agent, self.server, site)) for site in SITES
        }
        self.before: dict[str, Seen] = {site: self.journey.served(self.server, site) for site in SITES}
        for certificate_id in self.certificates.values():
            self.journey.settled(certificate_id)
        self.pids = self.coordinator.process.pid, self.agent.process.pid
        self.demand = Demand()

    @contextmanager
    def asking(self, askers: int) -> Iterator[None]:
        """Let renewals be asked for, and go on until some were accepted before and after the block."""
        apis = [self.coordinator.api() for _ in range(askers)]
        with self.demand.asking(apis, list(self.certificates.values())):
            self.some_are_accepted()
            yield
            self.some_are_accepted()

    def some_are_refused(self) -> None:
        """Wait until callers have heard of it."""
        before = len(self.demand.refusals)
        wait_until("renewals are refused", lambda: len(self.demand.refusals) >= before + 10)

    def some_are_accepted(self) -> None:
        """Wait for that."""
        before = self.demand.answers
        wait_until("renewals are accepted", lambda: self.demand.answers >= before + 5, HEALED_S)

    def healed(self) -> None:
        """See that all is well without anybody's help: the same processes, and the account is right."""
        self.demand.account(self.journey, self.server, self.certificates, HEALED_S)
        assert (self.coordinator.process.pid, self.agent.process.pid) == self.pids
        for process in (self.coordinator.process, self.agent.process):
            said = process.log.read_text()
            assert "Traceback" not in said
            assert PASSWORD not in said


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Everything runs and is served; each trouble finds what the one before has left healed."""
    folder = tmp_path_factory.mktemp("outages")
    with playing(folder) as stage:
        yield Shop(stage, folder)


def _told(refusals: list[Refusal]) -> None:
    """See that every refusal is one that may be tried again, with a cause."""
    for refusal in refusals:
        assert (refusal.status, refusal.problem["type"].rpartition(":")[2]) in PASSING, refusal
        assert re.search(CAUSE, refusal.problem["detail"]), refusal


def test_a_database_that_is_frozen(shop: Shop) -> None:
    """Callers hear 504 with a cause after seconds, certificates stay served, and nothing that was accepted is lost."""
    with shop.asking(ASKERS):
        pids = shop.database.freeze()
        frozen_at = time.monotonic()
        try:
            assert shop.journey.api.get("/health") == {"status": "healthy", "warnings": []}
            wait_until("the frost is over", lambda: time.monotonic() > frozen_at + FREEZE_S, FREEZE_S + 5, 0.1)
            for site in SITES:
                shop.journey.served(shop.server, site, deadline_s=5)
            meanwhile = [refusal for refusal in shop.demand.refusals if refusal.at > frozen_at]
        finally:
            thaw(pids)
        assert meanwhile, "somebody hears of it while it lasts"
        thawed_at = time.monotonic()
    healed_after_s = time.monotonic() - thawed_at
    shop.healed()
    _told(shop.demand.refusals)
    assert shop.demand.unanswered == []
    longest = max(refusal.took_s for refusal in shop.demand.refusals)
    sys.stdout.write(
        f"frozen for {FREEZE_S:.0f} s: {shop.demand.answers} accepted, {len(shop.demand.refusals)} refused, "
        f"{len(meanwhile)} of them meanwhile, after {min(r.took_s for r in meanwhile):.1f} to {longest:.1f} s; "
        f"accepted again after {healed_after_s:.1f} s\n"
    )
    assert longest <= BOUND_S


def test_a_database_that_is_restarted(shop: Shop) -> None:
    """Callers hear 503 with a cause at once; what was accepted before is done, and everything goes on by itself.

    Once with a goodbye, and once as by a power cut.
    """
    with shop.asking(len(SITES)):
        for number in (signal.SIGINT, signal.SIGQUIT):
            shop.database.process.signal(number)
            shop.database.process.wait(20)
            shop.some_are_refused()
            for site in SITES:
                shop.journey.served(shop.server, site, deadline_s=5)
            shop.database.start()
            shop.some_are_accepted()
    shop.healed()
    _told(shop.demand.refusals)
    assert shop.demand.unanswered == []
