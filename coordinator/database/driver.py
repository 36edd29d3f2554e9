"""The typed edge of asyncpg, which ships no types: the only module that imports it.

Beside the driver itself this holds the one list of what counts as "the database cannot be reached" and the one list
of what counts as "this statement may succeed when tried again". Stores take the constraint errors they translate
into ``Conflict`` from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import asyncpg  # type: ignore[import-untyped] # the package has no stubs of its own

Error: type[Exception] = asyncpg.PostgresError
UniqueViolation: type[Exception] = asyncpg.UniqueViolationError
ForeignKeyViolation: type[Exception] = asyncpg.ForeignKeyViolationError
CheckViolation: type[Exception] = asyncpg.CheckViolationError
UnknownDatabase: type[Exception] = asyncpg.InvalidCatalogNameError
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


class Record(Protocol):
    """One row: fields by name or position."""

    def __getitem__(self, key: str | int) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def keys(self) -> Iterator[str]:
        """Return the names of the columns."""
        ...

    def items(self) -> Iterator[tuple[str, Any]]:
        """Return pairs of name and value, in the order of the columns."""
        ...

    def get(self, key: str, default: Any = None) -> Any:
        """Return one field, or ``default`` where the row has no such column."""
        ...


async def connect(dsn: str, **options: Any) -> Any:
    """Open one connection outside of any pool."""
    return await asyncpg.connect(dsn, **options)


async def create_pool(dsn: str, **options: Any) -> Any:
    """Open a pool and its first connections."""
    return await asyncpg.create_pool(dsn, **options)
