"""Heads on their way out: the newest one is posted to where CERTCTL_AUDIT_WEBHOOK_URL says.

Heads are a chain, so the newest stands for all before it: what could not be delivered is not kept, the next attempt
has a newer one. Attempts have a deadline, and come less and less often while they fail. With a secret, the body's
HMAC-SHA256 stands in the header ``Certctl-Signature: sha256=<hex>``.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl

import httpx
import msgspec
import structlog

from core.secret import Secret
from core.wire import AuditHead

log = structlog.get_logger()
DEADLINE_S = 10.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
SIGNATURE_HEADER = "Certctl-Signature"


class Webhook:
    """One receiver: what it has been told, and how often in a row that failed."""

    def __init__(self, url: str, secret: Secret[str] | None) -> None:
        self._url, self._secret = url, secret
        self._told = 0
        self._failures = 0

    async def tell(self, head: AuditHead) -> float | None:
        """Post a head unless the receiver has it; return the seconds until another attempt if it was in vain."""
        if head.number == self._told:
            return None
        try:
            await self._post(msgspec.json.encode(head))
        except (httpx.HTTPError, OSError) as error:
            self._failures += 1
            log.warning("audit_head_not_posted", number=head.number, error=_cause(error), failures=self._failures)
            return min(SHORTEST_PAUSE_S * (1 << min(self._failures - 1, 10)), LONGEST_PAUSE_S)
        self._told, self._failures = head.number, 0
        return None

    async def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = "sha256=" + sign(self._secret, body)
        context = ssl.create_default_context()
        async with httpx.AsyncClient(verify=context, timeout=DEADLINE_S, trust_env=False) as client:
            (await client.post(self._url, content=body, headers=headers)).raise_for_status()


def sign(secret: Secret[str], body: bytes) -> str:
    """Return the HMAC-SHA256 of a body in hex."""
    return hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()


def _cause(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    return str(error) or type(error).__name__
