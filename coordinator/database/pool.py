"""The pool: how the coordinator reaches its database, and the two ways to use it.

    async with db.connection() as conn:    reads, and single statements
    async with db.transaction() as tx:     a change and its audit event; wake-ups after the commit

Connections carry no state from one user to the next: no ``SET`` without ``LOCAL``, no session-level advisory locks. In
return no statement is spent on cleaning them, which would double the round trips of a short request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import msgspec

from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction, translated
from coordinator.database.driver import RawConnection, RawPool
from coordinator.database.wakeups import WakeUps
from core.errors import Misconfigured

VARIABLE = "CERTCTL_DATABASE_URL"
OWNER_VARIABLE = "CERTCTL_DATABASE_OWNER_URL"
MIN_MAJOR = 15
CONNECT_DEADLINE_S = 10.0
ACQUIRE_DEADLINE_S = 10.0
CLOSE_DEADLINE_S = 10.0
COMMAND_DEADLINE_S = 45.0  # longer than the server's own limit, for a server that does not answer at all
SESSION = {
    "application_name": "certctl",
    "timezone": "UTC",
    "jit": "off",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}
_AT_HAND = 8
"""Connections that are kept between two users without the driver's pool, whose own way takes two tasks and timers."""
JSONB_VERSION = b"\x01"
_EXAMPLE = "postgresql://user:password@host:5432/database"  # pragma: allowlist secret - nobody's


class Database:
    """A pool of connections and the hub of wake-ups on the same server."""

    def __init__(self, pool: RawPool, wakeups: WakeUps) -> None:
        self._pool = pool
        self._at_hand: list[RawConnection] = []
        self._waiting = 0
        self._closing = False
        self.wakeups = wakeups

    @classmethod
    async def open(cls, dsn: str, *, max_connections: int = 20) -> Database:
        """Connect; raise ``Misconfigured`` that names CERTCTL_DATABASE_URL, never its password, when that fails."""
        with connecting(dsn):
            pool = await driver.create_pool(
                dsn,
                SESSION,
                min_size=min(2, max_connections),
                max_size=max_connections,
                timeout=CONNECT_DEADLINE_S,
                command_timeout=COMMAND_DEADLINE_S,
                init=_prepare,
                reset=_keep_as_it_is,
            )
        wakeups = WakeUps(dsn)
        try:
            connection = await pool.acquire(timeout=ACQUIRE_DEADLINE_S)
            _check_version(connection)
            await pool.release(connection)
            await wakeups.start()
        except BaseException:
            await wakeups.close()
            pool.terminate()
            raise
        return cls(pool, wakeups)

    async def close(self) -> None:
        """Wake everybody who waits, then close the connections as they are given back, or when that takes too long."""
        self._closing = True
        await self.wakeups.close()
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                while self._at_hand:
                    await self._give_back(self._at_hand.pop())
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; ``Transient`` when none can be had."""
        raw, sound = await self._acquire(), False
        try:
            yield Connection(raw)
            sound = True
        finally:
            await self._release(raw, sound=sound)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Lend a connection inside a transaction: committed at the block's end, rolled back when it raises.

        ``Transient`` out of the commit itself leaves open whether it happened: repeat only what may happen twice.
        """
        raw, sound = await self._acquire(), False
        try:
            tx = Transaction(raw)
            async with _committed(raw):
                yield tx
                await tx.store_gathered()
            sound = True
        finally:
            await self._release(raw, sound=sound)
        for callback in tx.callbacks:
            callback()
        if tx.topics:
            self.wakeups.notify(tx.topics)

    async def _acquire(self) -> RawConnection:
        while self._at_hand:
            raw = self._at_hand.pop()
            if not driver.is_lost(raw):
                return raw
            await self._give_back(raw)
        self._waiting += 1
        try:
            with translated():
                return await self._pool.acquire(timeout=ACQUIRE_DEADLINE_S)
        finally:
            self._waiting -= 1

    async def _release(self, raw: RawConnection, *, sound: bool) -> None:
        """Keep a connection at hand for the next user; not one that saw an error, and none while others wait."""
        if sound and not self._waiting and not self._closing and len(self._at_hand) < _AT_HAND:
            self._at_hand.append(raw)
        else:
            await self._give_back(raw)

    async def _give_back(self, raw: RawConnection) -> None:
        # The driver throws a broken connection away by itself; that it was broken has been told by the statement.
        with contextlib.suppress(*driver.UNREACHABLE, driver.InterfaceError):
            await self._pool.release(raw)


@contextlib.asynccontextmanager
async def _committed(raw: RawConnection) -> AsyncIterator[None]:
    with translated(raw):
        transaction = raw.transaction()
        await transaction.start()
    try:
        yield
    except BaseException:
        # The first error is the one to tell; a connection that cannot roll back is gone, and its transaction with it.
        with contextlib.suppress(*driver.ANY_FAILURE):
            await transaction.rollback()
        raise
    with translated(raw):
        await transaction.commit()


async def _prepare(connection: RawConnection) -> None:
    """Give a new connection the jsonb codec: any value that msgspec can encode goes in, plain Python comes out."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: JSONB_VERSION + msgspec.json.encode(value),
        decoder=lambda data: msgspec.json.decode(data[1:]),
    )


async def _keep_as_it_is(_connection: RawConnection) -> None:
    """Stand in for the driver's cleaning statements."""


def _check_version(connection: RawConnection) -> None:
    version = connection.get_server_version()
    if version.major < MIN_MAJOR:
        found = f"{version.major}.{version.minor}"
        raise Misconfigured(f"{VARIABLE} names a PostgreSQL {found} server; certctl needs {MIN_MAJOR} or newer")


@contextlib.contextmanager
def connecting(dsn: str, variable: str = VARIABLE) -> Iterator[None]:
    """Turn what goes wrong while connecting at start into an error that names the variable and hides the password."""
    where = _location(dsn)
    try:
        yield
    except driver.CONFIGURATION:
        # The parser's own words can quote a piece of the password, so neither they nor their traceback are passed on.
        raise Misconfigured(
            f"{variable} is no PostgreSQL URL: write {_EXAMPLE}, and percent-encode "
            "the characters / ? # @ : % in the password"
        ) from None
    except TimeoutError as error:
        raise Misconfigured(f"{variable}: {where} does not answer within {CONNECT_DEADLINE_S:.0f} s") from error
    except OSError as error:
        raise Misconfigured(
            f"{variable}: {where} is not reachable ({error.strerror or type(error).__name__})"
        ) from error
    except (driver.Error, driver.InterfaceError) as error:
        why = str(error) if where != UNCLEAR else type(error).__name__
        raise Misconfigured(f"{variable}: {where} refuses the connection: {why}") from error


UNCLEAR = "the server"


def _location(dsn: str) -> str:
    """Return ``host:port/database``, or no more than "the server" where the URL may be cut inside of its password."""
    try:
        parts = urlsplit(dsn)
        port = parts.port or 5432
    except ValueError:
        return UNCLEAR
    if "@" in parts.path + parts.query + parts.fragment:
        return UNCLEAR
    return f"{parts.hostname}:{port}{parts.path}" if parts.hostname else f"the socket's database {parts.path[1:]}"
