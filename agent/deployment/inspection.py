"""Looks again at what was installed: is it there, unchanged, and is it what is served? Nothing is changed here."""

from __future__ import annotations

import msgspec

from agent.deployment import service
from agent.deployment.installation import Installation
from agent.deployment.journal import JournalFolder
from agent.deployment.prepare import Endpoint, Prepared
from agent.deployment.remote import PreparedDelivery
from connectors.targets.base import Probe
from core.errors import Refused
from core.wire import Finding, InstalledState

_MOST_WORDS = 2000
_ELSEWHERE = "what is stored there is not, or not any more, what was delivered"


class Stand(msgspec.Struct, frozen=True):
    """How an installation stands, and in what it differs."""

    state: InstalledState = "in place"
    words: str = ""


def at_paths(prepared: Prepared, journals: JournalFolder) -> Stand:
    """Compare the files of this host with what was installed; synchronous, the caller holds the service's lock."""
    try:
        differences = Installation(prepared, journals).look().differences
    except Refused as error:  # something stands there that is no certificate, or not to be replaced
        return Stand("changed", error.detail)
    if not differences:
        return Stand()
    state: InstalledState = "missing" if any(each.missing for each in differences) else "changed"
    return Stand(state, "; ".join(each.words for each in differences))


async def at_place(prepared: PreparedDelivery) -> Stand:
    """Compare a remote place with what was delivered; the caller holds the place's lock."""
    async with prepared.connector.reach(prepared.service, prepared.config) as place:
        await place.look(prepared.delivery)
        return Stand() if place.complete else Stand("changed", _ELSEWHERE)


async def finding(prepared: Prepared | PreparedDelivery, stand: Stand, told: InstalledState, probe: Probe) -> Finding:
    """Return what there is to say: what is served counts most, and nothing answering is not a difference."""
    item, endpoint = prepared.item, prepared.endpoint
    seen, wrong = await _seen(endpoint, item.fingerprint, probe)
    state, words = stand.state, stand.words
    if seen and wrong:
        state, words = "served differs", "; ".join(filter(None, (f"{endpoint}: {wrong}", words)))
    elif not seen and endpoint is not None and state == "in place" and told == "served differs":
        state = told
        words = f"{endpoint}: {wrong}"
    return Finding(item.target_id, item.version_id, state, words.replace("\0", "\ufffd")[:_MOST_WORDS], seen)


async def _seen(endpoint: Endpoint | None, fingerprint: str, probe: Probe) -> tuple[str, str]:
    return ("", "") if endpoint is None else await service.seen_now(endpoint, fingerprint, probe)
