"""An exclusive lock on a file's companion, which the end of the process releases."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

from adapty_async._journal.model import DamageError
from adapty_async._runtime.files import is_at

__all__ = ("PRIVATE", "FileLock", "status_of")

#: The permissions of every file that belongs to a journal: only its owner can read it.
PRIVATE = 0o600


class FileLock:
    """
    An exclusive lock on a file next to the journal, held until this is closed or the process ends.

    It is SQLite's own lock on an empty database, so it works wherever SQLite does. Only SQLite
    opens that file: a process that closes a file releases all its locks on it.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}-lock")
        while True:
            before = status_of(self._path)
            if before is not None and not stat.S_ISREG(before.st_mode):
                raise DamageError(f"{self._path.name} is not a regular file")
            self._db = self._connected()
            try:
                self._db.execute("PRAGMA journal_mode = MEMORY")
                self._db.execute("BEGIN EXCLUSIVE")
                with contextlib.suppress(FileNotFoundError):
                    self._path.chmod(PRIVATE)
                # this may have created it just now, or its last owner may have removed it
                if before is not None and is_at(self._path, before):
                    return
            except BaseException:
                self._db.close()
                raise
            self._db.close()

    def _connected(self) -> sqlite3.Connection:
        try:
            # a reader holds it briefly, to check whether a run does
            return sqlite3.connect(self._path, timeout=0.1, isolation_level=None)
        except sqlite3.OperationalError:
            # the operating system's error is more exact
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT))
            raise

    def close(self) -> None:
        """Remove the file, and release the lock."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._db.close()


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of a file or link; None if it does not exist."""
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
