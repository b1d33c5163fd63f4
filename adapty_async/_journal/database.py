"""
A thread that owns an SQLite connection, so that no SQL runs in an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from adapty_async._fork import on_fork
from adapty_async.errors import JournalError

__all__ = ("DatabaseThread", "explain")


class _Closeable(Protocol):
    def close(self) -> None: ...


ResultT = TypeVar("ResultT")
OwnedT = TypeVar("OwnedT", bound=_Closeable)
# work, the future of its result, and whether it is the last
_Job: TypeAlias = tuple[Callable[[Any], Any], asyncio.Future[Any], bool]

_TEXTS = {
    sqlite3.SQLITE_FULL: "no space left on the disk",
    sqlite3.SQLITE_IOERR: "input/output error",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file, or a file next to it, cannot be opened",
    sqlite3.SQLITE_BUSY: "it is in use by another process",
    sqlite3.SQLITE_LOCKED: "it is in use by another process",
}


def explain(error: Exception) -> str:
    """
    Return the reason for an error of the operating system or of SQLite, for people.

    SQLite's own text may quote the file, so it is not used.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, sqlite3.Error | UnicodeDecodeError):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        return _TEXTS.get(code & 0xFF, "it is damaged")
    return str(error)


class DatabaseThread(Generic[OwnedT]):
    """
    A thread that opens a resource, such as a connection, and runs work on it in order.

    A forked process has no such thread, and so never touches the connection: the local variable of
    a thread that does not exist there is not freed either. Closing the copy would remove the
    parent's write-ahead log.

    Args:
        connect: opens the resource, in the thread. Its error is that of the first work.
        name: the name of the thread.
    """

    def __init__(self, connect: Callable[[], OwnedT], name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._refusal: str | None = None
        on_fork(self)
        # a daemon, so that a run nobody ended cannot keep the interpreter from exiting
        threading.Thread(target=_serve, args=(self._jobs, connect), name=name, daemon=True).start()

    def after_fork(self) -> None:
        """
        Refuse all work in the forked process.
        """
        self._refusal = "the journal is in use by the process that was forked"

    def run(
        self, work: Callable[[OwnedT], ResultT], *, is_last: bool = False
    ) -> asyncio.Future[ResultT]:
        """
        Run work in the thread; the future gets its result in the running event loop.

        After the last work, the thread closes the resource and ends.
        """
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        if self._refusal is None:
            self._jobs.put((work, future, is_last))
        else:
            future.set_exception(JournalError(self._refusal))
        if is_last:
            self._refusal = self._refusal or "the journal is closed"
        return future

    def __del__(self) -> None:
        if getattr(self, "_refusal", "") is None:
            self._jobs.put(None)


def _serve(jobs: queue.SimpleQueue[_Job | None], connect: Callable[[], _Closeable]) -> None:
    owned: _Closeable | None = None
    is_last = False
    while not is_last and (job := jobs.get()) is not None:
        work, future, is_last = job
        result, failure = None, None
        try:
            if owned is None and not is_last:
                owned = connect()
            if owned is not None:
                result = work(owned)
        except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
            failure = error
        if is_last and owned is not None:
            owned.close()
        with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody waits
            future.get_loop().call_soon_threadsafe(_settle, future, result, failure)
        del job, work, future, result, failure  # they hold the caller's objects
    if owned is not None and not is_last:
        owned.close()


def _settle(future: asyncio.Future[Any], result: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
