"""What services and stores are given: a connection, or a transaction that can also wake somebody once it is committed.

Errors of the driver are translated here, once, statement by statement: a server that is away becomes ``Transient``,
one that takes too long ``DeadlineExceeded``. Constraint violations pass through (see ``driver``), because only the
store knows what they mean. Statements are prepared and cached by the driver; arguments are ``$1``, ``$2`` …
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from coordinator.database import driver
from coordinator.database.driver import RawConnection, Record, Value
from core.errors import DeadlineExceeded, Transient

STREAM_ROWS = 500
Row: TypeAlias = tuple[object, ...]
Statement: TypeAlias = tuple[str, *tuple[object, ...]]
"""SQL and its arguments, as ``execute`` and ``later`` take them."""
Insert: TypeAlias = Callable[[Sequence[Row]], Statement]
"""What stores any number of rows."""
_PLACE = re.compile(r"\$(\d+)")


class Connection:
    """One of the pool's connections; each statement is its own transaction."""

    def __init__(self, raw: RawConnection) -> None:
        self._raw = raw

    async def fetch(self, sql: str, *args: object) -> list[Record]:
        """Return all rows."""
        with translated(self._raw):
            return await self._raw.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        """Return the first row, if there is one."""
        with translated(self._raw):
            return await self._raw.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Value:
        """Return the first column of the first row; None when there is no row."""
        with translated(self._raw):
            return await self._raw.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> int:
        """Run one statement; return how many rows it touched."""
        with translated(self._raw):
            status = await self._raw.execute(sql, *args)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each tuple of arguments, all in one transaction and few round trips."""
        with translated(self._raw):
            await self._raw.executemany(sql, rows)


class Transaction(Connection):
    """A connection inside ``BEGIN … COMMIT``; what it was told to wake is told only after the commit."""

    def __init__(self, raw: RawConnection) -> None:
        super().__init__(raw)
        self.topics: dict[str, None] = {}
        self.callbacks: list[Callable[[], None]] = []
        self._gathered: list[tuple[Insert, Row]] = []
        self._later: list[Statement] = []

    def gather(self, insert: Insert, row: Row) -> None:
        """Have a row stored as the last thing in this transaction, together with all others of the same ``insert``."""
        self._gathered.append((insert, row))

    def later(self, sql: str, *args: object) -> None:
        """Have a statement run as the last thing in this transaction, in one round trip with what else is to come then.

        For what writes, and what nothing reads before that: it sees what was there before any other of them.
        """
        self._later.append((sql, *args))

    async def store_gathered(self) -> None:
        """Store what was gathered: at the end of the transaction, or before what refers to it."""
        inserts = dict.fromkeys(insert for insert, _ in self._gathered)
        rows = (insert([row for each, row in self._gathered if each is insert]) for insert in inserts)
        if statements := [*self._later, *rows]:
            await self.execute(*_together(statements))
        self._later.clear()
        self._gathered.clear()

    def wake(self, *topics: str) -> None:
        """Wake whoever waits for these topics, on every replica, once this is committed; nobody if it is not."""
        self.topics.update(dict.fromkeys(topics))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in this process once this is committed; it must not fail or wait."""
        self.callbacks.append(callback)

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo only the block when it raises, its wake-ups and gathered rows as well; the transaction can go on."""
        topics, callbacks = dict(self.topics), list(self.callbacks)
        gathered, later = list(self._gathered), list(self._later)
        with translated(self._raw):
            inner = self._raw.transaction()
            await inner.start()
        try:
            yield
        except BaseException:
            self.topics, self.callbacks, self._gathered, self._later = topics, callbacks, gathered, later
            with translated(self._raw):
                await inner.rollback()
            raise
        with translated(self._raw):
            await inner.commit()

    async def stream(self, sql: str, *args: object) -> AsyncIterator[Record]:
        """Yield the rows of a long answer without holding it in memory."""
        with translated(self._raw):
            cursor = await self._raw.cursor(sql, *args)
        while True:
            with translated(self._raw):
                rows = await cursor.fetch(STREAM_ROWS)
            if not rows:
                return
            for row in rows:
                yield row


def _together(statements: Sequence[Statement]) -> Statement:
    """Return statements that write as one; none of them may have such a one in a WITH of its own."""
    if len(statements) == 1:
        return statements[0]
    parts, values = list[str](), list[object]()
    for number, (sql, *args) in enumerate(statements):
        before = len(values)
        moved = _PLACE.sub(lambda place, before=before: f"${int(place[1]) + before}", sql)  # type: ignore[misc]
        parts.append(f"s{number} AS ({moved})")
        values += args
    return f"WITH {', '.join(parts)} SELECT", *values


@contextlib.contextmanager
def translated(raw: RawConnection | None = None) -> Iterator[None]:
    """Turn the driver's errors that are about the server, not about the statement, into ours."""
    try:
        yield
    except driver.TOO_SLOW as error:
        if raw is not None and isinstance(error, TimeoutError):
            # The server did not even cut the statement off by itself, so it would not hear a rollback either.
            raw.terminate()
        raise DeadlineExceeded("the database took too long to answer; try again") from error
    except driver.TRY_AGAIN as error:
        raise Transient("another change to the same data came first; try again") from error
    except driver.UNREACHABLE as error:
        raise _unreachable() from error
    except driver.InterfaceError as error:
        # The driver's word for a misuse, and also for a connection that was lost between two statements.
        if raw is None or not driver.is_lost(raw):
            raise
        raise _unreachable() from error


def _unreachable() -> Transient:
    return Transient("database is not reachable; it is tried again with the next call")
