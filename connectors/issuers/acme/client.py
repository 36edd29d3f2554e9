"""One authority as a client sees it: its directory (RFC 8555 section 7.1.1), nonces (6.5) and signed requests (6.2)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio
import msgspec

from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.polling import LoopTimer, Timer
from connectors.issuers.acme.problems import BadNonce
from connectors.issuers.acme.transport import Answer, Connection, Transport, connected
from core.clock import Clock, SystemClock
from core.errors import CertctlError, Misconfigured, NotFound, Transient

NONCE_TRIES = 50
"""How often a request is signed again because its nonce was not taken."""
_MOST_NONCES = 32
_NONCE = re.compile(r"[A-Za-z0-9_-]{1,512}", re.ASCII)
_DIRECTORY_LIFE = timedelta(hours=1)


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What an authority says of itself."""

    terms_of_service: str = ""
    website: str = ""
    caa_identities: tuple[str, ...] = ()
    external_account_required: bool = False
    profiles: dict[str, str] = {}


class Directory(msgspec.Struct, frozen=True, rename="camel"):
    """Where an authority does what; ``renewal_info`` is empty where it has none."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str = ""
    key_change: str = ""
    renewal_info: str = ""
    meta: Meta = Meta()


class Session:
    """Requests to one authority. Any number of tasks may use one at the same time."""

    def __init__(
        self,
        transport: Transport,
        directory_url: str,
        *,
        clock: Clock | None = None,
        timer: Timer | None = None,
        nonce_tries: int = NONCE_TRIES,
    ) -> None:
        self.transport, self.directory_url = transport, directory_url
        self.clock, self.timer = clock or SystemClock(), timer or LoopTimer()
        self._nonce_tries = nonce_tries
        self._nonces: list[str] = []
        self._lock = anyio.Lock()
        self._directory: tuple[Directory, datetime] | None = None

    async def directory(self) -> Directory:
        """Return the directory, which is read again when it is an hour old."""
        async with self._lock:
            if self._directory is None or self.clock.now() - self._directory[1] > _DIRECTORY_LIFE:
                self._directory = await self._read_directory(), self.clock.now()
            return self._directory[0]

    async def _read_directory(self) -> Directory:
        what = "reading the directory"
        answer = await self.get(self.directory_url, what=what)
        try:
            return msgspec.json.decode(answer.body, type=Directory)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Misconfigured(f"{self.directory_url} is no ACME directory; correct directory_url: {error}") from error

    async def get(self, url: str, *, what: str) -> Answer:
        """Read what everybody may read; raise what it tells."""
        answer = await self.transport.send("GET", url)
        if (error := answer.error(what)) is not None:
            raise error
        return answer

    async def post(
        self, url: str, payload: object, key: AccountKey, *, what: str, kid: str = "", accept: str = "application/json"
    ) -> Answer:
        """Send a signed request; ``payload`` None reads (POST-as-GET). A nonce that was not taken is replaced."""
        error: CertctlError | None = None
        for _ in range(self._nonce_tries):
            answer = await self._post_once(url, payload, key, kid, accept)
            error = answer.error(what)
            if error is None:
                return answer
            if not isinstance(error, BadNonce):
                raise error
        raise Transient(f"{what}: the authority took none of {self._nonce_tries} nonces of its own") from error

    async def _post_once(self, url: str, payload: object, key: AccountKey, kid: str, accept: str) -> Answer:
        signed = key.sign(payload, url=url, nonce=await self._nonce(), kid=kid)
        headers = {"Content-Type": "application/jose+json", "Accept": accept}
        answer = await self.transport.send("POST", url, content=msgspec.json.encode(signed), headers=headers)
        if isinstance(answer.error(""), BadNonce):
            self._nonces.clear()  # they are as old as the one that was not taken
        self._keep_nonce(answer)
        return answer

    async def _nonce(self) -> str:
        if not self._nonces:
            url = (await self.directory()).new_nonce
            answer = await self.transport.send("HEAD", url)
            if (error := answer.error("asking for a nonce")) is not None:
                raise error
            self._keep_nonce(answer)
        if not self._nonces:
            raise Transient(f"{self.directory_url} gave no nonce")
        return self._nonces.pop()

    def _keep_nonce(self, answer: Answer) -> None:
        nonce = answer.headers.get("replay-nonce", "")
        if _NONCE.fullmatch(nonce) and len(self._nonces) < _MOST_NONCES:
            self._nonces.append(nonce)

    def place(self, url: str, what: str) -> str:
        """Return an address of the directory; raise ``NotFound`` where the authority does not have it."""
        if not url:
            raise NotFound(f"{what}: the authority at {self.directory_url} does not offer this")
        return url


@asynccontextmanager
async def session(directory_url: str, connection: Connection | None = None, **options: Any) -> AsyncIterator[Session]:
    """Give a session with connections of its own; ``options`` are those of ``Session``."""
    async with connected(connection or Connection(), options.get("clock")) as transport:
        yield Session(transport, directory_url, **options)
