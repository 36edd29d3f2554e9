"""Access tokens (RFC 6749 section 4.4, RFC 7523): asked for with what the account has, used until they expire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import anyio

from connectors.issuers.acme.dns.base import API, json_of
from core.clock import Clock
from core.errors import Transient
from core.secret import Secret

_MARGIN = timedelta(seconds=60)
"""So long before its end a token is no longer used: it has to last until it has arrived."""


class Tokens:
    """The tokens of one account. ``form`` makes what is sent to ``url`` for one."""

    def __init__(self, api: API, url: str, form: Callable[[], Mapping[str, str]], *, remedy: str, clock: Clock) -> None:
        self._api, self._url, self._form, self._remedy, self._clock = api, url, form, remedy, clock
        self._token, self._until = Secret(""), datetime.min.replace(tzinfo=UTC)
        self._lock = anyio.Lock()

    async def header(self) -> dict[str, str]:
        """Return the header that a request carries; raise what a refusal tells."""
        async with self._lock:
            if self._clock.now() >= self._until:
                await self._renew()
            return {"Authorization": f"Bearer {self._token.reveal()}"}

    async def _renew(self) -> None:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        asked = self._clock.now()
        body = urlencode(self._form()).encode()
        answer = await self._api.call("POST", self._url, headers=headers, body=body)
        found = json_of(answer)
        said = f"{found.get('error_description', '')} ({found['error']})" if "error" in found else ""
        self._api.check(answer, said, self._remedy)
        token, lifetime_s = found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or not isinstance(lifetime_s, int):
            raise Transient(f"{self._url} answered {answer.status} without an access token and its lifetime")
        self._token, self._until = Secret(token), asked + timedelta(seconds=lifetime_s) - _MARGIN
