"""Somebody who asks for renewals without a pause while things break, keeps the answers, and draws up the account.

What counts is what was answered with success. A request without such an answer may have been carried out or not; the
account only says that it brought about one version at most.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.lab.fleet import API, APIError
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import look
from tests.journeys.stage import Journey

PAUSE_S = 0.05


@dataclass(frozen=True)
class Refusal:
    """A request that was answered with a problem."""

    status: int
    problem: dict[str, Any]
    took_s: float
    at: float


class Demand:
    """What ``asking`` collects: jobs by certificate, refusals, and how many got no answer at all."""

    def __init__(self) -> None:
        self.accepted: dict[str, set[str]] = {}
        self.answers = 0
        self.refusals: list[Refusal] = []
        self.unanswered: list[str] = []
        self._lock = threading.Lock()

    def ask(self, api: API, certificate_id: str) -> None:
        """Ask once."""
        started = time.monotonic()
        try:
            answer = api.post(f"/api/v1/certificates/{certificate_id}/renew")
        except APIError as error:
            now = time.monotonic()
            with self._lock:
                self.refusals.append(Refusal(error.status, error.problem, now - started, now))
        except httpx.TransportError as error:
            with self._lock:
                self.unanswered.append(repr(error))
        else:
            with self._lock:
                self.answers += 1
                self.accepted.setdefault(certificate_id, set()).update(answer["job_ids"])

    def _go_on_asking(self, api: API, certificate_id: str, stopping: threading.Event) -> None:
        while not stopping.wait(PAUSE_S):
            self.ask(api, certificate_id)

    @contextmanager
    def asking(self, apis: Sequence[API], certificate_ids: Sequence[str]) -> Iterator[None]:
        """Let each client ask in a thread of its own, the certificates taken in turn."""
        stopping, several = threading.Event(), itertools.cycle(certificate_ids)
        askers = [threading.Thread(target=self._go_on_asking, args=(api, next(several), stopping)) for api in apis]
        for asker in askers:
            asker.start()
        try:
            yield
        finally:
            stopping.set()
            for asker in askers:
                asker.join()

    def account(self, journey: Journey, server: Nginx, certificates: dict[str, str], deadline_s: float) -> None:
        """Wait for rest and see that each accepted job made one version, and that the newest ones are served."""
        for site, certificate_id in certificates.items():
            journey.settled(certificate_id, deadline_s)
            jobs = listed(journey.api, "/api/v1/jobs", certificate_id=certificate_id, kind="issuance")
            states = {job["id"]: job["state"] for job in jobs}
            assert {states[job_id] for job_id in self.accepted.get(certificate_id, ())} <= {"Completed"}, states
            versions = listed(journey.api, f"/api/v1/certificates/{certificate_id}/versions")
            completed = Counter(states.values())["Completed"]
            assert [version["generation"] for version in versions] == list(range(completed, 0, -1))
            assert len({version["serial"] for version in versions}) == completed
            seen = look(server.port, site)
            assert seen is not None
            assert seen.fingerprint == versions[0]["fingerprint"]
        told = sum(len(job_ids) for job_ids in self.accepted.values())
        made = sum(
            len(listed(journey.api, f"/api/v1/certificates/{certificate_id}/versions"))
            for certificate_id in certificates.values()
        )
        assert told <= made - len(certificates) <= told + len(self.refusals) + len(self.unanswered)


def listed(api: API, path: str, **query: str) -> list[dict[str, Any]]:
    """Return the whole of a list, newest first."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = api.get(path, page_size=200, **query, **cursor)
        found += answer["data"]
        if not answer["next_cursor"]:
            return found
        cursor = {"cursor": answer["next_cursor"]}
