"""Somebody changes what was installed, between renewals: it is noticed, told and, where that is wanted, mended."""

from __future__ import annotations

import signal
import time
from typing import Any

from benchmarks.lab.fleet import Agent, Coordinator
from benchmarks.lab.processes import wait_until
from benchmarks.lab.servers import Nginx, write_placeholder
from benchmarks.lab.wire import look
from tests.journeys.stage import Journey, Stage

SITE = "shop.example.test"


class Shop:
    """An nginx with a certificate, whose agent looks again every second."""

    def __init__(self, stage: Stage, on_drift: str) -> None:
        self.coordinator: Coordinator = stage.coordinator()
        self.server: Nginx = stage.nginx("web", SITE)
        self.site = self.server.sites[SITE]
        self.agent: Agent = stage.agent("edge", self.coordinator, self.server.policy(), CERTCTL_DRIFT_INTERVAL="1s")
        self.journey = Journey(self.coordinator)
        self.journey.api.http.patch(
            "/api/v1/renewal-policies/rp-default", json={"on_drift": on_drift}
        ).raise_for_status()
        target = self.journey.target(self.agent, self.server, SITE, layout="separate")
        self.certificate_id = self.journey.want(SITE, target)
        self.journey.settled(self.certificate_id)
        self.fingerprint = self.journey.versions(self.certificate_id)[0]["fingerprint"]

    def put_another(self) -> None:
        """Overwrite the pair with another one, and have it loaded, while the agent is away."""
        self.agent.process.stop()
        write_placeholder(self.site)
        self.server.process.signal(signal.SIGHUP)
        wait_until("the other one is served", lambda: not self.is_served())
        time.sleep(0.3)  # for so long nginx lets its old workers accept as well
        self.agent.start()

    def binding(self) -> dict[str, Any]:
        """Return how the one target stands."""
        (binding,) = self.journey.api.get(f"/api/v1/certificates/{self.certificate_id}")["status"]["bindings"]
        return dict(binding)

    def is_served(self) -> bool:
        """Say whether a stranger sees the certificate."""
        seen = look(self.server.port, SITE)
        return seen is not None and seen.fingerprint == self.fingerprint

    def told(self) -> list[str]:
        """Return what people were told of it."""
        listed = self.journey.api.get("/api/v1/notifications", type="certificate_drifted")["data"]
        return [each["subject"] for each in listed]


def test_another_certificate_in_its_place_is_replaced_again(stage: Stage) -> None:
    """By the same version: nothing is issued for it."""
    shop = Shop(stage, "repair")
    shop.put_another()
    wait_until("it is told", lambda: bool(shop.told()))
    wait_until("it is served again", shop.is_served)
    wait_until("it is known", lambda: shop.binding()["drift"] == "")
    assert shop.binding()["served_version_id"] is not None
    assert shop.told() == [f"{SITE} on {SITE}: served differs"]
    assert len(shop.journey.versions(shop.certificate_id)) == 1
    triggers = {job["trigger"] for job in shop.journey.api.get("/api/v1/jobs")["data"]}
    assert "drift" in triggers


def test_a_change_that_is_only_reported_stays_until_somebody_mends_it(stage: Stage) -> None:
    """Also over a death of the agent right after the coordinator has heard of it."""
    shop = Shop(stage, "report")
    pair = shop.site.cert_path.read_bytes(), shop.site.key_path.read_bytes()
    shop.agent.process.stop()
    shop.agent.process.set_variable("CERTCTL_CRASH_POINT", "drift.told")
    shop.site.key_path.unlink()
    shop.agent.start()
    wait_until("the agent dies", lambda: not shop.agent.process.running())
    assert shop.binding()["drift"] == "missing"
    assert "its renewal policy says to report this only" in shop.binding()["reason"]
    shop.site.key_path.write_bytes(pair[1])
    shop.site.key_path.chmod(0o600)
    shop.agent.process.set_variable("CERTCTL_CRASH_POINT", None)
    shop.agent.start()
    wait_until("its end is known", lambda: shop.binding()["drift"] == "")
    assert shop.told() == [f"{SITE} on {SITE}: missing"]
    assert shop.is_served()
