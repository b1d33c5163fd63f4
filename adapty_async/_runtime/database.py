"""A thread that owns a database connection, so no SQL runs in an event loop; SQLite helpers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import queue
import sqlite3
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from adapty_async._runtime.fork import register_fork_handler
from adapty_async.errors import JournalError

ResultT = TypeVar("ResultT")

#: The application id of the database of a journal.
JOURNAL_ID = int.from_bytes(b"adpy", "big")


class _Closeable(Protocol):
    def close(self) -> None: ...


OwnedT = TypeVar("OwnedT", bound=_Closeable)
_Settle: TypeAlias = Callable[[Any, BaseException | None], object]
_Jobs: TypeAlias = "queue.SimpleQueue[tuple[Callable[[Any], Any], _Settle] | None]"

_TEXTS: dict[int | None, str] = {
    sqlite3.SQLITE_FULL: "no space left on the disk",
    sqlite3.SQLITE_IOERR: "input/output error",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_READONLY_ROLLBACK: (
        "a run was killed while it opened or closed it; resume the run, which repairs it"
    ),
    sqlite3.SQLITE_CANTOPEN: "the file, or a file next to it, cannot be opened",
    sqlite3.SQLITE_BUSY: "it is in use by another process",
    sqlite3.SQLITE_LOCKED: "it is in use by another process",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged",
}
_PRIMARY_CODE = 0xFF
_SCHEME = "sqlite:///"


def code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; an error of the module itself means damage."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & _PRIMARY_CODE


def explain(error: Exception) -> str:
    """
    Return the reason for an error of the operating system or of SQLite, for a message.

    SQLite's own text may quote the file, so it is not used.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return _TEXTS.get(code) or _TEXTS.get(code_of(error), "it is damaged")
    if isinstance(error, UnicodeDecodeError):
        return "it is damaged"
    return str(error)


def path_in_url(url: str) -> Path | None:
    """Return the path in a URL such as ``sqlite:///file``; None for any other URL."""
    path = url.removeprefix(_SCHEME) if url.startswith(_SCHEME) else ""
    return Path(urllib.parse.unquote(path)) if path else None


def is_journal(database: sqlite3.Connection) -> bool:
    """Return whether a database is the journal of a run, which must have no other tables."""
    (found,) = database.execute("PRAGMA application_id").fetchone()
    return bool(found == JOURNAL_ID)


def use_write_ahead_log(database: sqlite3.Connection) -> None:
    """
    Let a database have a write-ahead log, unless another process changes its mode right now.

    The mode stays in the file. SQLite does not wait for a process that changes it, which sets the
    same mode. A file that cannot be written fails at the next statement.
    """
    if database.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        with contextlib.suppress(sqlite3.OperationalError):
            database.execute("PRAGMA journal_mode = WAL")


def set_durable(database: sqlite3.Connection, *, is_durable: bool) -> None:
    """Let the next commits wait for the disk, or not: the next durable one makes them durable."""
    database.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")


class DatabaseThread(Generic[OwnedT]):
    """
    A thread that opens a resource, such as a connection, and runs work on it in order.

    A forked process does not have the thread, so it never uses the connection. It does not free the
    thread's local variables either; closing the copy would remove the parent's write-ahead log.

    Args:
        connect: opens the resource, in the thread. The first work raises its error.
        name: the name of the thread.
        what: the database, for messages.
    """

    def __init__(self, connect: Callable[[], OwnedT], name: str, what: str = "the journal") -> None:
        self._jobs: _Jobs = queue.SimpleQueue()
        self._is_open = True
        self._put_lock = threading.Lock()  # so that no work follows the end, and waits forever
        self._what, self._reason = what, f"{what} is closed"
        register_fork_handler(self)
        # a daemon, so that a run that is never closed does not block the interpreter's exit
        self._thread = threading.Thread(
            target=_serve, args=(self._jobs, connect), name=name, daemon=True
        )
        self._thread.start()

    def after_fork(self) -> None:
        """Reject all work in the forked process."""
        self._is_open = False
        self._reason = f"{self._what} is in use by the process that was forked"
        self._put_lock = threading.Lock()  # another thread may have held it

    def run(self, work: Callable[[OwnedT], ResultT]) -> asyncio.Future[ResultT]:
        """Run work in the thread; return a future of its result in the running event loop."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        if not self._put(work, functools.partial(_settle_in_loop, future)):
            future.set_exception(JournalError(self._reason))
        return future

    def run_blocking(self, work: Callable[[OwnedT], ResultT]) -> ResultT:
        """
        Run work in the thread, and return its result. Blocks; not in the event loop.

        Raises:
            JournalError: the thread was stopped.
        """
        done: concurrent.futures.Future[ResultT] = concurrent.futures.Future()
        if not self._put(work, functools.partial(_settle, done)):
            raise JournalError(self._reason)
        return done.result()

    def _put(self, work: Callable[[OwnedT], Any], settle: _Settle) -> bool:
        with self._put_lock:
            if self._is_open:
                self._jobs.put((work, settle))
            return self._is_open

    def stop(self) -> None:
        """Stop the thread after its pending work; it closes the resource. Does not wait."""
        with self._put_lock:
            self._is_open = False
            self._jobs.put(None)

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            self.stop()


def _settle_in_loop(
    future: asyncio.Future[Any], result: object, error: BaseException | None
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed, so nothing waits
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(
    future: asyncio.Future[Any] | concurrent.futures.Future[Any],
    result: object,
    error: BaseException | None,
) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _serve(jobs: _Jobs, connect: Callable[[], _Closeable]) -> None:
    owned: _Closeable | None = None
    while (job := jobs.get()) is not None:
        work, settle = job
        result, failure = None, None
        try:
            if owned is None:
                owned = connect()
            result = work(owned)
        except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
            failure = error
        settle(result, failure)
        del job, work, settle, result, failure  # they refer to the caller's objects
    if owned is not None:
        owned.close()
