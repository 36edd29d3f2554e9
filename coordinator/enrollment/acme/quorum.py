"""How many perspectives have to corroborate what the coordinator saw (CA/Browser Forum BR 3.2.2.9)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from core.wire import LookState

State = LookState | Literal["silent"]
"""As an agent told it, or ``silent`` while it has not told anything."""
Verdict = Literal["corroborated", "refused", "too few", "open"]
_FEW, _MOST_OF_FEW = 2, 5


def may_dissent(perspectives: int) -> int:
    """Return how many of so many perspectives need not corroborate."""
    if perspectives < _FEW:
        return 0
    return 1 if perspectives <= _MOST_OF_FEW else 2


def judge(states: Collection[State], least: int) -> Verdict:
    """Say how it stands: ``least`` perspectives have to answer, those whose hosts do not let them are none.

    One that stays silent does not corroborate; but silence alone refuses nothing, since it is no word on the name.
    """
    told = [state for state in states if state != "none"]
    seen, failed, allowed = told.count("seen"), told.count("failed"), may_dissent(len(told))
    if len(told) < least:
        return "too few"
    if failed > allowed:
        return "refused"
    if seen + failed >= least and len(told) - seen <= allowed:
        return "corroborated"
    return "open" if "silent" in told else "too few"
