"""Messages as JSON, posted to one HTTPS address.

The body is a ``Message``; its id stands in ``Idempotency-Key`` as well. With a secret, the body's HMAC-SHA256 stands in
``Certctl-Signature: sha256=<hex>``. Redirects are not followed, proxies of the environment are not asked and the answer
is not read: only its status counts.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl

import anyio
import httpx
import msgspec

from connectors.notifiers.base import DEADLINE_S, Message
from core.errors import Transient
from core.secret import Secret

SIGNATURE_HEADER = "Certctl-Signature"


class Webhook:
    """One receiver."""

    def __init__(self, url: str, secret: Secret[str] | None, *, deadline_s: float = DEADLINE_S) -> None:
        self._url, self._secret, self._deadline_s = url, secret, deadline_s

    async def send(self, message: Message, recipient: str) -> None:
        """Post a message."""
        del recipient
        body = msgspec.json.encode(message)
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = "sha256=" + sign(self._secret, body)
        try:
            with anyio.fail_after(self._deadline_s):
                await self._post(body, headers)
        except TimeoutError as error:
            raise Transient(f"the receiver did not answer within {self._deadline_s:.0f} s") from error
        except (httpx.HTTPError, OSError) as error:
            raise Transient(f"the receiver cannot be reached: {str(error) or type(error).__name__}") from error

    async def _post(self, body: bytes, headers: dict[str, str]) -> None:
        context = ssl.create_default_context()
        async with (
            httpx.AsyncClient(verify=context, timeout=self._deadline_s, trust_env=False) as client,
            client.stream("POST", self._url, content=body, headers=headers) as response,
        ):
            if not response.is_success:
                raise Transient(f"the receiver answered {response.status_code}")


def sign(secret: Secret[str], body: bytes) -> str:
    """Return the HMAC-SHA256 of a body in hex."""
    return hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()
