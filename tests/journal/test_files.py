"""Files at a journal's path and next to it: foreign files, links, permissions, file systems."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapty_async._journal import Changes, ItemState, SqliteJournal, summarise
from adapty_async._journal.sqlite import reading
from adapty_async._runtime import files
from adapty_async.errors import JournalError
from tests.journal.support import (
    IDENTITY,
    OWED,
    InFile,
    accept,
    ignore,
    reopened,
    span,
    states_of,
)

NOBODY = 65534
CHILD = """
import asyncio, os, sys
from pathlib import Path
import anyio
from adapty_async._journal import SqliteJournal, summarise
from adapty_async.errors import JournalError
from tests.journal.support import reopened

async def main(path):
    journal = SqliteJournal(path, owed=16)
    await reopened(journal)
    await journal.close()

anyio.run(anyio.sleep, 0)  # it loads modules when they are needed, and a user may not read them
is_root = os.geteuid() == 0
if is_root:
    os.setgroups([])
    os.setresgid({nobody}, {nobody}, 0)
    os.setresuid({nobody}, {nobody}, 0)
try:
    {statement}
except JournalError as error:
    print(error)
else:
    print("no error")
if is_root:
    os.seteuid(0)
"""


async def stored(path: Path) -> dict[int, ItemState]:
    """Open a journal and return its states."""
    journal = SqliteJournal(path, owed=OWED)
    found = states_of(await reopened(journal))
    await journal.close()
    return found


async def make(path: Path) -> None:
    """Make a journal in which item 0 is done."""
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    await journal.commit(Changes(spans={0: span("d")}), durable=True)
    await journal.close()


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return the names in a folder with the contents of those that are files."""
    return {each.name: each.read_bytes() if each.is_file() else None for each in folder.iterdir()}


async def refused(path: Path, match: str) -> None:
    """Validate that a path is rejected, and that everything in its folder stays as it is."""
    before = contents(path.parent) if path.parent.is_dir() else {}
    with pytest.raises(JournalError, match=match) as caught:
        await reopened(SqliteJournal(path, owed=OWED))
    assert str(path) in str(caught.value)
    assert (contents(path.parent) if path.parent.is_dir() else {}) == before


OTHER = {
    "a text": (b"user_1\nuser_2\n", "it is not a journal of this library"),
    "a short text": (b"\n", "it is not a journal of this library"),
    "a journal of a development version": (
        b"adapty-async journal 5\n" + bytes(5000),
        "it is a journal of a development version, which this release cannot read; start a new",
    ),
    "a text that begins as a database": (b"SQLite format 3\0" + b"x" * 9000, "it is damaged"),
    "the first half of a database's header": (b"SQLite format 3\0" + bytes(20), "it is damaged"),
}


@pytest.mark.parametrize(("content", "message"), OTHER.values(), ids=OTHER)
async def test_a_file_of_another_kind_is_rejected_and_stays(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """A file that is no journal is named for what it is and not changed, by runs and by readers."""
    path = tmp_path / "run.db"
    path.write_bytes(content)
    await refused(path, f"cannot be used: {message}")
    with pytest.raises(JournalError, match=f"cannot be read: {message}"):
        summarise(path)
    assert path.read_bytes() == content


FOREIGN = {
    "tables": (
        ["CREATE TABLE users (id TEXT)"],
        "it is a database, but not a journal of this library",
    ),
    "an id": (
        ["PRAGMA application_id = 7"],
        "it is a database, but not a journal of this library",
    ),
    "a version": (
        ["PRAGMA user_version = 6"],
        "it is a database, but not a journal of this library",
    ),
    "a later format": (
        [f"PRAGMA application_id = {int.from_bytes(b'adpy', 'big')}", "PRAGMA user_version = 7"],
        "it has format 7; this release understands format 6",
    ),
    "other tables": (
        [
            f"PRAGMA application_id = {int.from_bytes(b'adpy', 'big')}",
            "PRAGMA user_version = 6",
            "CREATE TABLE run (number)",
        ],
        "its tables are not those of a journal",
    ),
}


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize(("statements", "message"), FOREIGN.values(), ids=FOREIGN)
async def test_another_database_is_rejected_and_stays(
    tmp_path: Path, statements: list[str], message: str, mode: str
) -> None:
    """A database of another program is rejected and not changed."""
    path = tmp_path / "run.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA journal_mode = {mode}")
        for statement in statements:
            db.execute(statement)
    path.chmod(0o644)
    await refused(path, f"cannot be used: {message}")
    with pytest.raises(JournalError, match=f"cannot be read: {message}"):
        summarise(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_a_table_more_is_rejected(tmp_path: Path) -> None:
    """A journal with an additional table is rejected."""
    path = tmp_path / "run.db"
    await make(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE more (id)")
    await refused(path, "its tables are not those of a journal")


async def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    """An empty file, as `mktemp` creates one, is a new journal; a reader rejects it as empty."""
    path = tmp_path / "run.db"
    path.touch()
    with pytest.raises(JournalError, match="cannot be read: it holds nothing yet"):
        summarise(path)
    assert await stored(path) == {}


async def test_a_reader_names_a_file_that_is_missing(tmp_path: Path) -> None:
    """Reading creates nothing."""
    with pytest.raises(JournalError, match="cannot be read: No such file or directory"):
        summarise(tmp_path / "run.db")
    assert not contents(tmp_path)


async def test_a_reader_names_a_run_that_was_killed_while_it_closed_its_journal(
    tmp_path: Path,
) -> None:
    """SQLite leaves a rollback journal then, which only a writer may use: the next run does."""
    path, copy = tmp_path / "run.db", tmp_path / "killed.db"
    await make(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE run SET stop_reason = hex(zeroblob(100000))")
        shutil.copy(path, copy)
        shutil.copy(f"{path}-journal", f"{copy}-journal")
        db.execute("ROLLBACK")
    message = "cannot be read: a run was killed while it opened or closed it; resume the run"
    with pytest.raises(JournalError, match=message):
        summarise(copy)
    journal = SqliteJournal(copy, owed=OWED)
    await reopened(journal)
    await journal.close()

    assert [run.stop_reason for run in summarise(copy).runs] == [None, None]


async def test_links_are_rejected(tmp_path: Path) -> None:
    """SQLite's log belongs to a name, so a journal with a second name is rejected."""
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "run.db"
    await make(real)
    link = tmp_path / "link.db"
    link.symlink_to(real)
    await refused(link, "it is a symbolic link")
    link.unlink()
    link.symlink_to(tmp_path / "nothing")
    await refused(link, "it is a symbolic link")
    link.unlink()
    link.hardlink_to(real)
    await refused(link, "it has another name")
    await refused(real, "it has another name")
    link.unlink()
    assert await stored(real) == {0: ItemState.DONE}


async def test_a_file_that_is_mounted_alone_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A container that has the file without its folder would lose the log, and other runs' locks.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    mounts, path = tmp_path / "mountinfo", tmp_path / "a run.db"
    monkeypatch.setattr(files, "_MOUNTS", mounts)
    await make(path)  # a system without such a table
    mounts.write_text(f"48 27 254:0 / {tmp_path} rw shared:1 - ext4 /dev/vda rw\n", "utf-8")
    assert await stored(path) == {0: ItemState.DONE}
    name = str(path).replace(" ", "\\040")
    mounts.write_text(f"48 27 254:0 /run.db {name} rw - ext4 /dev/vda rw\n", "utf-8")
    await refused(path, "it is mounted alone, without its log and its locks: mount its folder")


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket"])
async def test_what_is_no_file_is_rejected(tmp_path: Path, kind: str) -> None:
    """A folder, a pipe or a socket is rejected at once."""
    path = tmp_path / "run.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    await refused(path, "it is not a regular file|Is a directory|No such device or address")
    with pytest.raises(JournalError, match="cannot be read: it is not a regular file"):
        summarise(path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "symlink", "text"])
async def test_a_lock_file_that_is_none_is_rejected(tmp_path: Path, kind: str) -> None:
    """Something else at the lock's path is neither used nor changed."""
    path = tmp_path / "run.db"
    lock = tmp_path / "run.db-lock"
    target = tmp_path / "target"
    target.touch()
    if kind == "folder":
        lock.mkdir()
    elif kind == "fifo":
        os.mkfifo(lock)
    elif kind == "symlink":
        lock.symlink_to(target)
    else:
        lock.write_bytes(b"no lock" * 1000)
    await refused(path, "cannot be used: ")


async def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """A folder on the way that does not exist, or is a file, is rejected."""
    await refused(tmp_path / "missing" / "run.db", "No such file or directory")
    (tmp_path / "file").touch()
    await refused(tmp_path / "file" / "run.db", "Not a directory")


async def test_a_path_that_is_too_long_for_sqlite_is_rejected(tmp_path: Path) -> None:
    """A path that the system accepts and SQLite does not is a `JournalError`."""
    folder = tmp_path / "/".join(["x" * 100] * 6)
    folder.mkdir(parents=True)
    with pytest.raises(JournalError, match="or a file next to it, cannot be opened"):
        await reopened(SqliteJournal(folder / "run.db", owed=OWED))


async def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    """A lock file that no process holds is no obstacle, and is removed at the end."""
    path = tmp_path / "run.db"
    path.with_name("run.db-lock").touch()
    await make(path)
    assert set(contents(tmp_path)) == {"run.db"}


NAMES = {
    "spaces": b"my run.db",
    "characters of an address": b"a?b#c%41&mode=ro.db",
    "other letters": "Löschung.db".encode(),
    "no UTF-8": b"\xff\xfe.db",
    "a dash": b"-run.db",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_a_journal_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    """Every file name works for runs and for readers."""
    path = tmp_path / os.fsdecode(name)
    await make(path)
    assert await stored(path) == {0: ItemState.DONE}
    assert summarise(path).counts[ItemState.DONE] == 1
    assert [os.fsencode(each) for each in contents(tmp_path)] == [name]


async def test_a_path_may_be_relative_or_begin_with_two_slashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every spelling of a path leads to the same file."""
    monkeypatch.chdir(tmp_path)
    await make(Path("run.db"))
    for path in (Path("run.db"), Path(f"/{tmp_path}/run.db"), tmp_path / "x/../run.db"):
        if ".." in path.parts:
            (tmp_path / "x").mkdir()
        assert await stored(path) == {0: ItemState.DONE}
        assert summarise(path).counts[ItemState.DONE] == 1


def modes(folder: Path) -> dict[str, str]:
    """Return the permissions of the files in a folder."""
    return {each.name: oct(stat.S_IMODE(each.stat().st_mode)) for each in folder.iterdir()}


@contextlib.contextmanager
def masked(umask: int) -> Iterator[None]:
    """Set the permissions that new files do not get."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o477, 0o777], ids=oct)
async def test_only_the_owner_can_read_the_files(tmp_path: Path, umask: int) -> None:
    """The database, its log, its shared memory and its lock have mode 0600, whatever the umask."""
    path = tmp_path / "run.db"
    with masked(umask):
        journal = SqliteJournal(path, owed=OWED)
        await reopened(journal)
        await journal.commit(Changes(spans={0: span("d")}), durable=True)
        names = ("run.db", "run.db-lock", "run.db-shm", "run.db-wal")
        assert modes(tmp_path) == dict.fromkeys(names, "0o600")
        await journal.close()
    assert modes(tmp_path) == {"run.db": "0o600"}


async def test_a_journal_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    """The mode of a resumed journal becomes 0600, and that of files a killed run left, too."""
    first = InFile(tmp_path)
    journal = first.journal()
    await reopened(journal)
    await journal.commit(Changes(spans={0: span("d")}), durable=True)
    killed = first.kill()
    await journal.close()
    for each in killed.path.parent.iterdir():
        each.chmod(0o666)
    survivor = killed.journal()
    assert states_of(await reopened(survivor)) == {0: ItemState.DONE}
    names = ("run.db", "run.db-lock", "run.db-shm", "run.db-wal")
    assert modes(killed.path.parent) == dict.fromkeys(names, "0o600")
    await survivor.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that every user can reach, below a temporary folder that only root can."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_a_user(statement: str, path: Path) -> str:
    """Run a statement in a process without the rights of root, and return what it prints."""
    code = CHILD.format(nobody=NOBODY, statement=statement)
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


OPEN = "asyncio.run(main(Path(sys.argv[1])))"
READ = "summarise(Path(sys.argv[1]))"


async def test_a_folder_or_a_file_that_is_read_only_is_rejected(open_folder: Path) -> None:
    """Without the right to write, a run is rejected with the reason; reading works."""
    path = open_folder / "run.db"
    path.parent.chmod(0o555)
    assert as_a_user(OPEN, path) == f"the journal {path} cannot be used: Permission denied"
    path.parent.chmod(0o755)
    await make(path)
    path.chmod(0o444)
    before = contents(open_folder)
    path.parent.chmod(0o555)
    assert as_a_user(OPEN, path).endswith("cannot be used: Permission denied")
    assert as_a_user(READ, path) == "no error"
    path.parent.chmod(0o777)
    assert as_a_user(OPEN, path).endswith("cannot be used: Permission denied")
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)  # who could change the mode
    assert as_a_user(OPEN, path).endswith("cannot be used: Permission denied")
    path.chmod(0)
    assert as_a_user(READ, path).startswith(f"the journal {path} cannot be read: ")
    path.chmod(0o444)
    assert contents(open_folder) == before


async def test_a_killed_journal_in_a_read_only_folder_is_read_or_rejected(
    open_folder: Path, tmp_path: Path
) -> None:
    """A killed run's journal on a read-only medium is an error, and no other state."""
    first = InFile(tmp_path)
    journal = first.journal()
    await reopened(journal)
    await journal.commit(Changes(spans={0: span("d")}), durable=True)
    await journal.close()
    await reopened(journal)
    await journal.commit(Changes(spans={0: span("da")}), durable=True)
    killed = first.kill()
    await journal.close()
    for each in killed.path.parent.iterdir():
        shutil.copy(each, open_folder)
        (open_folder / each.name).chmod(0o444)
    path = open_folder / "run.db"
    path.parent.chmod(0o555)
    read = f"print(summarise(Path(sys.argv[1])).counts[{int(ItemState.ABSENT)}])"
    printed = as_a_user(read, path)
    assert printed.splitlines()[0] == "1" or printed.startswith(f"the journal {path} cannot be")


@pytest.mark.parametrize("umask", [0o477, 0o777], ids=oct)
def test_a_user_with_a_strange_umask_gets_a_private_journal(open_folder: Path, umask: int) -> None:
    """A umask without the owner's permissions does not keep the owner from opening the files."""
    open_folder.chmod(0o777)
    path = open_folder / "run.db"
    assert as_a_user(f"os.umask({umask}); {OPEN}", path) == "no error"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_journal_without_shared_memory_works_and_keeps_readers_out(
    tmp_path: Path,
) -> None:
    """Where the log's shared memory cannot be made, runs, kills and resumes work as everywhere."""
    path = tmp_path / "run.db"
    path.with_name("run.db-shm").symlink_to("nothing")
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    await journal.commit(Changes(spans={0: span("d")}), durable=True)
    with pytest.raises(JournalError, match="cannot be read: it is in use by another process"):
        summarise(path)
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("run.db", "run.db-wal"):
        shutil.copy(tmp_path / name, killed)
    (killed / "run.db-shm").symlink_to("nothing")
    await journal.commit(Changes(spans={0: span("da")}), durable=True)
    await journal.close()
    assert await stored(killed / "run.db") == {0: ItemState.DONE}
    assert await stored(path) == {0: ItemState.DONE, 1: ItemState.ABSENT}


@pytest.mark.parametrize("vfs", ["unix-none", "unix-dotfile", "unix-excl"])
async def test_another_interface_to_the_system_works(tmp_path: Path, vfs: str) -> None:
    """SQLite's interfaces without POSIX locks store and resume as the default does."""
    path = tmp_path / "run.db"
    for text in ("d", "da"):
        journal = SqliteJournal(path, owed=OWED, vfs=vfs)
        await reopened(journal)
        await journal.commit(Changes(spans={0: span(text)}), durable=True)
        await journal.close()
    assert await stored(path) == {0: ItemState.DONE, 1: ItemState.ABSENT}


async def test_an_interface_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """An unknown VFS name is a `JournalError`, and the lock is released."""
    with pytest.raises(JournalError, match="cannot be used"):
        await reopened(SqliteJournal(tmp_path / "run.db", owed=OWED, vfs="none such"))
    assert await stored(tmp_path / "run.db") == {}


GONE = {
    "moved": lambda path: path.rename(path.parent / "elsewhere"),
    "deleted": lambda path: path.unlink(),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"other")),
    "replaced by a folder": lambda path: (path.unlink(), path.mkdir()),
    "in a folder that was moved": lambda path: path.parent.rename(f"{path.parent}-x"),
    "in a folder that a file replaced": lambda path: (
        path.parent.rename(f"{path.parent}-x"),
        path.parent.touch(),
    ),
    "in a folder that a loop of links replaced": lambda path: (
        path.parent.rename(f"{path.parent}-x"),
        path.parent.symlink_to(path.parent),
    ),
}


@pytest.mark.parametrize("change", GONE.values(), ids=GONE)
async def test_a_journal_that_is_gone_is_noticed_by_the_next_commit(
    tmp_path: Path, change: object
) -> None:
    """A journal deleted, moved or replaced during the run stores nothing more, and raises."""
    assert callable(change)
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "run.db"
    journal = SqliteJournal(path, owed=OWED)
    await reopened(journal)
    change(path)
    for _ in range(2):
        with pytest.raises(JournalError, match=r"deleted, moved or replaced|cannot be written"):
            await journal.commit(Changes(spans={0: span("d")}), durable=True)
    with contextlib.suppress(JournalError):
        await journal.close()


async def test_reading_changes_nothing(tmp_path: Path) -> None:
    """A reader changes neither a closed journal nor one that a killed run left, log included."""
    first = InFile(tmp_path)
    journal = first.journal()
    await journal.open(IDENTITY, accept, ignore)
    await journal.commit(Changes(spans={0: span("d")}), durable=True)
    killed = first.kill()
    await journal.close()
    for path in (first.path, killed.path):
        before = {n: c for n, c in contents(path.parent).items() if not n.endswith("-shm")}
        assert summarise(path).counts[ItemState.DONE] == 1
        with reading(path) as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("DELETE FROM span")
        after = {n: c for n, c in contents(path.parent).items() if not n.endswith("-shm")}
        assert after == before
