"""A request's way past the limits: before it is known who asks, once it is known, and after it failed.

Before authentication only what did not authenticate is counted: reads of open routes as they come, and everything else
when it has failed. So a fleet behind one address has no budget in common, however it comes back, and one bad neighbour
is answered 429 instead of 401. When the failures of an address are used up, ten times as many of its requests are still
looked at – good neighbours are among them – and no more.

RateLimit-Policy and RateLimit are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog
from quart import Request

from coordinator.access import service as access
from coordinator.limits import addresses
from coordinator.limits import service as limits
from coordinator.limits.buckets import Buckets, Standing
from coordinator.web.table import Access, Actor, Route
from core.errors import CertctlError, TooManyRequests, Transient

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
_FREE = {"/health"}
"""Costs less than a refusal, and is what a supervisor asks before it kills."""


class Visit:
    """One request. ``headers`` are fields for its answer, ``address`` the one that it is counted for."""

    def __init__(self, ctx: Context, route: Route, request: Request) -> None:
        self.headers: dict[str, str] = {}
        self._ctx = ctx
        self._route = route
        self._budgets = ctx.budgets
        peer = request.scope.get("client") or ("", 0)
        self.address = addresses.subject_of(peer[0], request.headers, ctx.settings.trusted_proxies)
        self._authorization = request.headers.get("Authorization", "")
        self._known = False
        self._reads = route.access is Access.OPEN and route.method == "GET"

    def begin(self, agent_id: str) -> None:
        """Raise ``TooManyRequests`` for what is not even looked at."""
        if not self._budgets.on or self._route.path in _FREE:
            return
        if self._reads:
            self._take(self._budgets.open, "open", f"{self.address} {self._route.path}")
            return
        if self._budgets.failures.wait_s(self.address) and not self._proven():
            self._take(self._budgets.chances, "address", self.address)
        if self._route.access is Access.OPEN and agent_id:
            self._take(self._budgets.sign_ins, "sign-in", f"{self.address} {agent_id}")

    def known(self, actor: Actor) -> None:
        """Count a request for who asks; raise ``TooManyRequests`` when that is too many."""
        self._known = True
        if self._budgets.on:
            self._take(self._budgets.callers, "credential", str(actor))

    def refused(self, error: CertctlError) -> CertctlError:
        """Count a failure for its address where nobody better is known; return the error to answer with."""
        blameless = self._known or self._reads or isinstance(error, Transient)
        if self._budgets.on and not blameless:
            standing = self._budgets.failures.take(self.address)
            if standing.wait_s:
                why = "this address sent too much without a good credential"
                error = limits.refused("address", why, standing.wait_s)
                self._tell("address", self._budgets.failures, standing)
        if isinstance(error, TooManyRequests):
            self.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        return error

    def _proven(self) -> bool:
        return bool(self._authorization) and self._budgets.knows(access.digest_of(self._authorization))

    def _take(self, buckets: Buckets, scope: str, subject: str) -> None:
        standing = buckets.take(subject)
        self._tell(scope, buckets, standing)
        if standing.wait_s:
            rate = buckets.rate
            why = f"more than {rate.burst} requests at once and {rate.per_s:g} a second"
            raise limits.refused(scope, why, standing.wait_s)

    def _tell(self, scope: str, buckets: Buckets, standing: Standing) -> None:
        window_s = math.ceil(buckets.rate.window_s)
        self.headers["RateLimit-Policy"] = f'"{scope}";q={buckets.rate.burst};w={window_s}'
        self.headers["RateLimit"] = f'"{scope}";r={standing.left};t={math.ceil(standing.full_s)}'
