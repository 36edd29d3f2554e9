"""How a deployment went: steps with their durations while it runs, one outcome at its end.

The outcome's fields are those of ``core.wire.JobReport``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from core import tracing
from core.errors import CertctlError, Transient
from core.wire import Failure, Step


class DeploymentOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one deployment; see ``core.wire.JobReport`` for the words."""

    outcome: Literal["served", "stored", "unchanged", "failed"]
    steps: tuple[Step, ...] = ()
    failure: Failure | None = None
    served_fingerprint: str = ""
    undo: Literal["not_needed", "done", "failed"] = "not_needed"


class Progress:
    """Collects the steps of one deployment and knows the one it is in.

    ``detail`` may be set within a step: what there is to say of it.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._trace = tracing.current()
        self.current = ""
        self.detail = ""

    @contextmanager
    def doing(self, name: str, *, record: bool = True) -> Iterator[None]:
        """Time a step; it is listed when it succeeds."""
        self.current, self.detail = name, ""
        started = time.perf_counter()
        yield
        if record:
            ms = round((time.perf_counter() - started) * 1000, 3)
            self.steps.append(Step(name, ms, self.detail))
            tracing.measured(name, ms, self._trace)

    def ended(self, outcome: Literal["served", "stored", "unchanged"], fingerprint: str) -> DeploymentOutcome:
        """Return the outcome of a success."""
        return DeploymentOutcome(outcome=outcome, steps=tuple(self.steps), served_fingerprint=fingerprint)

    def failed(
        self,
        error: CertctlError,
        *,
        step: str = "",
        undo: Literal["not_needed", "done", "failed"] = "not_needed",
        served: str = "",
    ) -> DeploymentOutcome:
        """Return the outcome of a failure in ``step``, by default the one it is in."""
        failure = Failure(step or self.current, error.detail, isinstance(error, Transient))
        return DeploymentOutcome(
            outcome="failed", steps=tuple(self.steps), failure=failure, served_fingerprint=served, undo=undo
        )
