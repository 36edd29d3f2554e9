"""Instants and durations as people say them."""

from __future__ import annotations

from datetime import datetime, timedelta

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_TWO = 2
_SECOND_MS = 1000


def spell(span: timedelta) -> str:
    """Return a duration in its largest unit that fits at least twice, rounded, e.g. ``31 days``, ``90 minutes``."""
    seconds = round(abs(span.total_seconds()))
    for name, size in _UNITS:
        if seconds >= _TWO * size or size == 1:
            count = round(seconds / size)
            return f"{count} {name}" + ("" if count == 1 else "s")
    raise AssertionError(span)  # the last unit always fits


def relative(moment: datetime | None, now: datetime) -> str:
    """Return ``in 31 days``, ``4 minutes ago``, ``now``, or a dash for None."""
    if moment is None:
        return "–"
    span = moment - now
    if abs(span) < timedelta(seconds=1):
        return "now"
    return f"in {spell(span)}" if span > timedelta() else f"{spell(span)} ago"


def exact(moment: datetime | None, now: datetime) -> str:
    """Return the instant in UTC with how far away it is."""
    if moment is None:
        return "–"
    return f"{stamp(moment)} ({relative(moment, now)})"


def stamp(moment: datetime) -> str:
    """Return the instant in UTC to the second, e.g. ``2026-01-31 12:00:00Z``."""
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def milliseconds(ms: float) -> str:
    """Return a measured duration, e.g. ``0.4 ms``, ``12 ms``, ``1.25 s``."""
    if ms >= _SECOND_MS:
        return f"{ms / _SECOND_MS:.2f} s"
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"  # noqa: PLR2004 - digits that mean something
