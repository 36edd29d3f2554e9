"""When an authority wants a certificate renewed (ACME Renewal Information, RFC 9773)."""

from __future__ import annotations

from datetime import datetime
from random import Random

import msgspec
from cryptography import x509

from connectors.issuers.acme.client import Session
from connectors.issuers.acme.problems import printable
from core.acme import certificate_id_of
from core.errors import NotFound, Transient

_DEFAULT_RETRY_S = 6 * 3600.0
_LEAST_RETRY_S, _MOST_RETRY_S = 60.0, 86400.0


class RenewalInfo(msgspec.Struct, frozen=True):
    """The window that a renewal should fall into; ask again after ``retry_after_s`` seconds, a day at the latest.

    ``explanation_url`` says to a person why the window is where it is, and is mostly empty.
    """

    start: datetime
    end: datetime
    explanation_url: str
    retry_after_s: float


class _Window(msgspec.Struct):
    start: datetime
    end: datetime


class _Document(msgspec.Struct, rename="camel"):
    suggested_window: _Window
    explanation_url: str = msgspec.field(default="", name="explanationURL")


async def renewal_info(session: Session, certificate: x509.Certificate) -> RenewalInfo | None:
    """Return what the authority suggests; None where it has no renewal information, or none of this certificate.

    A window that ends before it starts counts as no answer (section 4.2): ``Transient``.
    """
    base, identifier = (await session.directory()).renewal_info, certificate_id_of(certificate)
    if not base or not identifier:
        return None
    what = "asking when to renew"
    try:
        answer = await session.get(f"{base.rstrip('/')}/{identifier}", what=what)
    except NotFound:
        return None
    document = answer.read(_Document, what)
    start, end = document.suggested_window.start, document.suggested_window.end
    if start.tzinfo is None or end.tzinfo is None or end <= start:
        raise Transient(f"{what}: the window from {start} to {end} is none", retry_after_s=_DEFAULT_RETRY_S)
    retry = min(max(answer.retry_after_s or _DEFAULT_RETRY_S, _LEAST_RETRY_S), _MOST_RETRY_S)
    return RenewalInfo(start, end, printable(document.explanation_url), retry)


def select_time(window: RenewalInfo, random: Random) -> datetime:
    """Return a moment of the window, each as likely as any other (section 4.2); one in the past means now.

    Keep it until the window changes: choosing anew each time would lean to its beginning.
    """
    return window.start + (window.end - window.start) * random.random()
