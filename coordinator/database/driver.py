"""The typed edge of asyncpg, which ships no types: the only module that imports it.

Beside the driver itself this holds the one list of what counts as "the database cannot be reached" and the one list
of what counts as "this statement may succeed when tried again". Stores take the constraint errors they translate
into ``Conflict`` from here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import asyncpg

# A pool that cannot connect again warns with a traceback each time; who needs the database tells of it in a line.
logging.getLogger("asyncpg").setLevel(logging.ERROR)

Error: type[Exception] = asyncpg.PostgresError
UniqueViolation: type[Exception] = asyncpg.UniqueViolationError
ForeignKeyViolation: type[Exception] = asyncpg.ForeignKeyViolationError
CheckViolation: type[Exception] = asyncpg.CheckViolationError
UnknownDatabase: type[Exception] = asyncpg.InvalidCatalogNameError
UndefinedTable: type[Exception] = asyncpg.UndefinedTableError
NotPermitted: type[Exception] = asyncpg.InsufficientPrivilegeError
InterfaceError: type[Exception] = asyncpg.InterfaceError

UNREACHABLE: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
)
"""The server is away, going away, full, or (read only) no longer the primary: another connection may work later."""

TRY_AGAIN: tuple[type[Exception], ...] = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)
"""Two transactions met; the same transaction run again may pass."""

TOO_SLOW: tuple[type[Exception], ...] = (TimeoutError, asyncpg.QueryCanceledError)

ANY_FAILURE: tuple[type[Exception], ...] = (OSError, Error, InterfaceError, asyncpg.InternalClientError, TimeoutError)
"""Whatever the driver raises; for loops that begin again with a new connection."""

CONFIGURATION: tuple[type[Exception], ...] = (asyncpg.ClientConfigurationError, ValueError, TypeError)
"""What connecting raises when the URL itself makes no sense. Their texts may hold parts of it: never show them."""


Value: TypeAlias = Any
"""What a column holds. Its type is in the schema, which the checker does not read; the store that reads it knows."""


class Columns(Protocol):
    """What can be read by column: a row, or a dict that stands for one."""

    def __getitem__(self, key: str, /) -> Value: ...


class Record(Protocol):
    """One row: fields by name or position."""

    def __getitem__(self, key: str | int) -> Value: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Value]: ...

    def keys(self) -> Iterator[str]:
        """Return the names of the columns."""

    def items(self) -> Iterator[tuple[str, Value]]:
        """Return pairs of name and value, in the order of the columns."""

    def get(self, key: str, default: Value = None) -> Value:
        """Return one field, or ``default`` where the row has no such column."""


class RawTransaction(AbstractAsyncContextManager[None], Protocol):
    """The driver's transaction, or savepoint inside of one."""

    async def start(self) -> None: ...  # noqa: D102 - the driver's documentation says it, here and below
    async def commit(self) -> None: ...  # noqa: D102
    async def rollback(self) -> None: ...  # noqa: D102


class RawCursor(Protocol):
    """The driver's cursor."""

    async def fetch(self, n: int) -> list[Record]: ...  # noqa: D102


class ServerVersion(Protocol):
    """The driver's idea of a version."""

    major: int
    minor: int


class RawConnection(Protocol):
    """What this package uses of the driver's connection."""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str: ...  # noqa: ASYNC109, D102
    async def executemany(self, command: str, args: Iterable[Sequence[object]]) -> None: ...  # noqa: D102
    async def fetch(self, query: str, *args: object) -> list[Record]: ...  # noqa: D102
    async def fetchrow(self, query: str, *args: object) -> Record | None: ...  # noqa: D102
    async def fetchval(self, query: str, *args: object) -> Value: ...  # noqa: D102
    async def cursor(self, query: str, *args: object) -> RawCursor: ...  # noqa: D102
    def transaction(self) -> RawTransaction: ...  # noqa: D102
    def is_closed(self) -> bool: ...  # noqa: D102
    def get_server_version(self) -> ServerVersion: ...  # noqa: D102
    def add_termination_listener(self, callback: Callable[..., None]) -> None: ...  # noqa: D102
    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...  # noqa: D102
    async def set_type_codec(self, typename: str, **options: object) -> None: ...  # noqa: D102
    def terminate(self) -> None: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class RawPool(Protocol):
    """What this package uses of the driver's pool."""

    async def acquire(self, *, timeout: float) -> RawConnection: ...  # noqa: ASYNC109, D102
    async def release(self, connection: RawConnection) -> None: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102
    def terminate(self) -> None: ...  # noqa: D102


async def connect(dsn: str, settings: Mapping[str, str], deadline_s: float = 10.0) -> RawConnection:
    """Open one connection outside of any pool, with these session settings."""
    connection: RawConnection = await asyncpg.connect(dsn, server_settings=dict(settings), timeout=deadline_s)
    return connection


async def create_pool(dsn: str, settings: Mapping[str, str], **options: object) -> RawPool:
    """Open a pool and its first connections."""
    pool: RawPool = await asyncpg.create_pool(dsn, server_settings=dict(settings), **options)
    return pool


def is_lost(connection: RawConnection) -> bool:
    """Tell whether the connection is gone; the pool's stand-in for it refuses to say so once it is."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True
