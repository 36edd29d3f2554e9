"""The network between an agent and its coordinator, made worse: late, lossy, cut off. One transport for each agent."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator

import httpx
import trio

from benchmarks.fleet.config import Faults


class BadNetwork(httpx.AsyncBaseTransport):
    """The real transport, with the faults of the moment around each exchange."""

    def __init__(self, context: ssl.SSLContext, faults: Faults) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
        self._faults = faults

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; fail as a network does."""
        await self._delay()
        if random.random() < self._faults.loss:
            raise httpx.ConnectTimeout("the request was lost (simulated)", request=request)
        response = await self._inner.handle_async_request(request)
        await self._delay()
        fate, answer_loss = random.random(), self._faults.answer_loss
        if fate < answer_loss + self._faults.drop:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _CutOff(response.stream, keep=0 if fate < answer_loss else 1)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _delay(self) -> None:
        if self._faults.delay_ms:
            await trio.sleep(random.expovariate(1000 / self._faults.delay_ms))


class _CutOff(httpx.AsyncByteStream):
    """An answer that ends early: after ``keep`` bytes of what is more than a sign of life."""

    def __init__(self, inner: httpx.AsyncByteStream, keep: int) -> None:
        self._inner = inner
        self._keep = keep

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pass signs of life on, then break off."""
        async for chunk in self._inner:
            if chunk.strip():
                if self._keep:
                    yield chunk[: self._keep]
                raise httpx.ReadError("the answer was lost (simulated)")
            yield chunk

    async def aclose(self) -> None:
        """Close the connection, whose answer was not read to its end."""
        await self._inner.aclose()
