"""The one connection that writes: many callers, one transaction, one sync.

Theory of operation
-------------------
Callers queue operations; one thread takes whatever has queued while the last batch
was being committed and runs it as one transaction with a savepoint for each item. An
item that fails rolls back to its savepoint and harms nobody. An idle writer commits a
lone item at once, a busy one commits hundreds together.

A commit costs far more than an item. So an item for which nobody waits may be patient:
it goes with the next one that is not, or after `PATIENCE_S`.

Rules
-----
- A queued item is never cancelled; the caller may stop waiting, the item still runs:
  what is cancelled with the caller is the future alone, and nobody hears its result.
- What follows a commit (`after`) belongs to the item: it runs on the loop in commit
  order, before anybody who waits is told.
- If an error has rolled the whole transaction back (a full disk does), earlier items
  of the batch fail too: their work is gone.
- If COMMIT itself fails the outcome is not known: every item gets OutcomeUnknown, the
  connection is reopened, `on_doubt` is called. The writer never dies.
- At most one bulk item joins a batch, behind the interactive ones.
"""

import asyncio
import contextvars
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from asyncflow.errors import (
    AsyncflowError,
    DatabaseUnavailable,
    DiskFull,
    OutcomeUnknown,
)
from asyncflow.threads import begun

log = structlog.get_logger(__name__)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
#: the results of a batch, and why it is lost if it is
_Work = asyncio.Future[tuple[list[Any], str | None]]

MAX_BATCH = 256
#: how long a patient item waits for others
PATIENCE_S = 0.005
MAX_QUEUED = 20_000


@dataclass(slots=True, kw_only=True)
class _Item:
    operation: Operation[Any]
    after: Callable[[Any], None] | None
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a finished batch cost; `seconds` includes the sync."""

    items: int
    seconds: float
    committed: bool


def translate(error: Exception) -> Exception:
    """Return *error* as one of ours; a bug stays what it is."""
    if isinstance(error, AsyncflowError) or not isinstance(error, sqlite3.Error):
        return error
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        return error
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if name == "SQLITE_FULL":
        return DiskFull("the disk has no room for the database")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return DatabaseUnavailable(
            f"the database's file is damaged ({name}): keep a copy of it, and bring a "
            "backup into place with `asyncflow restore`"
        )
    return DatabaseUnavailable(f"the database cannot write now ({name})")


class GroupWriter:
    """Runs write operations in batches on one thread and one connection."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        on_batch: Callable[[Batch], None] = lambda _batch: None,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect = connect
        self._on_batch = on_batch
        self._on_doubt = on_doubt
        self._thread = begun(1, "db-writer")
        self._connection: sqlite3.Connection | None = None
        self._queue: deque[_Item] = deque()
        self._bulk: deque[_Item] = deque()
        #: done as soon as no batch is with the thread
        self._running: asyncio.Future[None] | None = None
        #: somebody in a queue is not patient, or not any more
        self._hurry = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        #: why writing does not work just now; None: it does
        self.trouble: str | None = None
        # A batch that changed no row has proved nothing about the disk.
        self._has_written = False

    async def write(
        self,
        operation: Operation[T],
        *,
        after: Callable[[T], None] | None = None,
        bulk: bool = False,
        patient: bool = False,
    ) -> T:
        """Run *operation* in the next batch; return its result once it is committed.

        A *patient* one may wait a moment for others.

        Raises:
            DatabaseUnavailable: too many writes are waiting, or writing fails.
            OutcomeUnknown: the commit failed half-way.
        """
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        if len(self._queue) >= MAX_QUEUED:
            raise DatabaseUnavailable("too many writes are waiting")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        item = _Item(operation=operation, after=after, future=future)
        (self._bulk if bulk else self._queue).append(item)
        if not patient or len(self._queue) >= MAX_BATCH:
            self._begin()
        elif self._timer is None:
            self._timer = future.get_loop().call_later(PATIENCE_S, self._begin)
        return await future

    def _begin(self) -> None:
        self._hurry = True
        if self._running is None:
            # No task: when a loop ends, it cancels all tasks, and the rows that they
            # write at their end would wait for one that is gone.
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            # a batch is of many requests: its log lines are not one request's
            loop.call_soon(self._next, context=contextvars.Context())

    def _next(self) -> None:
        """Hand the next batch to the thread."""
        batch = self._take()
        work = asyncio.get_running_loop().run_in_executor(
            self._thread, self._commit, [item.operation for item in batch]
        )
        work.add_done_callback(partial(self._done, batch, time.perf_counter()))

    def _done(self, batch: Sequence[_Item], began: float, work: _Work) -> None:
        """Tell how a batch went; then the next, as long as somebody is in a hurry."""
        try:
            self._tell(batch, *work.result(), time.perf_counter() - began)
        finally:
            if self._hurry:
                self._next()
            elif self._running is not None:
                self._running.set_result(None)
                self._running = None

    def _take(self) -> list[_Item]:
        count = min(len(self._queue), MAX_BATCH)
        batch = [self._queue.popleft() for _ in range(count)]
        if self._bulk:
            batch.append(self._bulk.popleft())
        self._hurry = bool(self._queue or self._bulk)
        if self._timer is not None:
            # nobody is left for whom it could ring
            self._timer.cancel()
            self._timer = None
        return batch

    def _tell(
        self,
        batch: Sequence[_Item],
        results: Sequence[Any],
        trouble: str | None,
        seconds: float,
    ) -> None:
        if trouble is not None or self._has_written:
            self.trouble = trouble
        cost = Batch(items=len(batch), seconds=seconds, committed=trouble is None)
        self._hand_on(self._on_batch, cost)
        if results and isinstance(getattr(results[0], "error", None), OutcomeUnknown):
            self._hand_on(self._on_doubt)
        for item, result in zip(batch, results, strict=True):
            if isinstance(result, _Failure):
                if not item.future.done():
                    item.future.set_exception(result.error)
                    # Somebody who stopped waiting is not a leak worth a warning.
                    item.future.exception()
                continue
            if item.after is not None:
                self._hand_on(item.after, result)
            if not item.future.done():
                item.future.set_result(result)

    @staticmethod
    def _hand_on(hear: Callable[..., None], *told: object) -> None:
        try:
            hear(*told)
        except Exception:  # a listener's bug must not stop the writer
            log.exception("db.after_commit_failed")

    # ----- on the writer's thread

    def _commit(
        self, operations: Sequence[Operation[Any]]
    ) -> tuple[list[Any], str | None]:
        try:
            if self._connection is None:
                self._connection = self._connect()
            before = self._connection.total_changes
            self._connection.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, AsyncflowError) as error:
            return self._all_failed(operations, translate(error))
        results: list[Any] = []
        for operation in operations:
            try:
                results.append(self._run_item(self._connection, operation))
            except _BatchLost as lost:
                return self._all_failed(operations, lost.error)
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            why = translate(error)
            doubt = OutcomeUnknown(f"the commit failed half-way: {why}")
            return self._all_failed(operations, doubt)
        self._has_written = self._connection.total_changes != before
        return results, None

    def _run_item(
        self, connection: sqlite3.Connection, operation: Operation[Any]
    ) -> object:
        try:
            connection.execute("SAVEPOINT item")
            result = operation(connection)
            connection.execute("RELEASE item")
        except Exception as error:  # every item answers for itself
            ours = translate(error)
            if not connection.in_transaction:
                raise _BatchLost(ours) from error
            try:
                connection.execute("ROLLBACK TO item")
                connection.execute("RELEASE item")
            except sqlite3.Error as worse:
                raise _BatchLost(translate(worse)) from worse
            return _Failure(error=ours)
        return result

    def _all_failed(
        self, operations: Sequence[Operation[Any]], error: Exception
    ) -> tuple[list[Any], str | None]:
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error as closing:
                log.warning("db.close_failed", error=str(closing))
            self._connection = None
        return [_Failure(error=error) for _ in operations], str(error)

    async def close(self) -> None:
        """Commit what is queued, checkpoint, close the connection."""
        self._closed = True
        if self._queue:
            self._begin()
        while self._running is not None:
            await asyncio.shield(self._running)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.execute("PRAGMA optimize")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()
        except sqlite3.Error as error:
            log.warning("db.close_failed", error=str(error))
        self._connection = None


class _BatchLost(Exception):
    """The whole transaction is gone, with what earlier items did."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
