"""Heads outside of the database: passed on, and read back from where they were kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from coordinator.audit import sealing
from coordinator.audit.webhook import Webhook
from core.errors import InvalidInput

if TYPE_CHECKING:
    from coordinator.context import Context

_HEAD = re.compile(r"[0-9a-f]{64}")


class _Line(msgspec.Struct):
    """A line of an agent's file, of a coordinator's log, or a body that was posted."""

    number: int
    head: str


async def post_newest(ctx: Context, interval_s: float) -> float:
    """Post the newest head, if somebody wants it; return the seconds until there is something to do again."""
    if not ctx.settings.audit_webhook_url:
        return interval_s
    if ctx.trail.webhook is None:
        ctx.trail.webhook = Webhook(ctx.settings.audit_webhook_url, ctx.settings.audit_webhook_secret)
    await sealing.refresh_head(ctx)
    pause_s = None if ctx.trail.head is None else await ctx.trail.webhook.tell(ctx.trail.head)
    return interval_s if pause_s is None else pause_s


def read_heads(path: Path) -> dict[int, str]:
    """Return the heads of a file by number: JSON lines with ``number`` and ``head``; other lines are passed over.

    Raises ``InvalidInput`` when there is none at all, or when two lines contradict each other.
    """
    heads: dict[int, str] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidInput.of("heads", f"{path} cannot be read: {error.strerror}") from error
    for raw in lines:
        try:
            line = msgspec.json.decode(raw, type=_Line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if not _HEAD.fullmatch(line.head):
            continue
        if heads.setdefault(line.number, line.head) != line.head:
            raise InvalidInput.of("heads", f"{path} has two heads for batch {line.number}: the chain was forked")
    if not heads:
        raise InvalidInput.of("heads", f"{path} has no line of JSON with a number and a head")
    return heads
