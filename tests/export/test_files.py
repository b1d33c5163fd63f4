"""The file of an export: chunks that are complete stay, and everything else is discarded."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapty_async import ExportError
from adapty_async.export._files import ExportFile, Output, temporary


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a target."""
    return tmp_path / "export.csv"


def opened(path: Path, export: str = "an export") -> ExportFile:
    """Return an open file."""
    file = ExportFile(path, export)
    file.open()
    return file


def add(file: ExportFile, *chunks: bytes) -> None:
    """Append chunks, and accept each."""
    for chunk in chunks:
        file.output.append(chunk)
        file.accept()


def interrupted(path: Path, *chunks: bytes, rest: bytes = b"") -> None:
    """Leave what a killed process leaves: complete chunks, and some bytes of the next."""
    file = opened(path)
    add(file, *chunks)
    file.output.append(rest)
    file.close()


def names(path: Path) -> list[str]:
    """Return the names of all files."""
    return sorted(each.name for each in path.parent.iterdir())


def test_a_file_appears_when_it_is_complete(path: Path) -> None:
    """The target stays as it is until all chunks are there, and then is replaced."""
    path.write_bytes(b"before")
    file = opened(path)
    add(file, b"one\n", b"two\n")
    assert path.read_bytes() == b"before"
    assert names(path) == ["export.csv", "export.csv.part", "export.csv.part.state"]
    file.complete()
    file.close()

    assert path.read_bytes() == b"one\ntwo\n"
    assert names(path) == ["export.csv"]


def test_the_mode_is_the_usual_one(path: Path) -> None:
    """The umask decides who may read the file: it has no personal data."""
    before = os.umask(0o027)
    try:
        file = opened(path)
        add(file, b"one\n")
        file.complete()
        file.close()
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_complete_chunks_are_kept(path: Path) -> None:
    """An interrupted export resumes after its complete chunks, without the rest."""
    interrupted(path, b"one\n", b"two\n", rest=b"thr")
    file = opened(path)
    assert (file.chunks, file.output.size) == (2, 8)
    add(file, b"three\n")
    file.complete()
    file.close()

    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_large_chunks_are_kept(path: Path) -> None:
    """The checksum of an earlier process's chunks is that of all their blocks."""
    interrupted(path, b"1" * 2_000_000, b"2" * 2_000_000)
    file = opened(path)

    assert (file.chunks, file.output.size) == (2, 4_000_000)
    file.close()


def test_nothing_is_left_of_nothing(path: Path) -> None:
    """An export that ends without a complete chunk removes its files."""
    interrupted(path, rest=b"on" * 100_000)

    assert names(path) == []


def test_another_export_starts_fresh(path: Path) -> None:
    """The chunks of another export are no part of this one."""
    interrupted(path, b"one\n")
    file = opened(path, "another export")
    assert (file.chunks, file.output.size) == (0, 0)
    add(file, b"1\n")
    file.close()

    file = opened(path)
    assert file.chunks == 0
    file.close()


STATE_DAMAGE = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "not json": lambda data: b"?" + data,
    "another format": lambda data: data.replace(b'"format":1', b'"format":2'),
    "wrong checksum": lambda data: data.replace(b'"crc32":', b'"crc32":1'),
    "too large": lambda data: data.replace(b'"size":', b'"size":9'),
}


@pytest.mark.parametrize("damage", STATE_DAMAGE.values(), ids=STATE_DAMAGE)
def test_a_damaged_state_is_never_trusted(path: Path, damage: object) -> None:
    """A state file that is missing or does not describe the partial file starts fresh."""
    interrupted(path, b"one\n", b"two\n")
    state = path.with_name("export.csv.part.state")
    changed = damage(state.read_bytes())  # type: ignore[operator]
    if changed is None:
        state.unlink()
    else:
        state.write_bytes(changed)
    file = opened(path)

    assert (file.chunks, file.output.size) == (0, 0)
    file.close()


def test_changed_chunks_are_never_trusted(path: Path) -> None:
    """A partial file with other bytes than those that were accepted starts fresh."""
    interrupted(path, b"one\n", b"two\n")
    path.with_name("export.csv.part").write_bytes(b"one\ntwO\n")
    file = opened(path)

    assert file.chunks == 0
    file.close()


@settings(max_examples=25)
@given(kept=st.integers(0, 260))
def test_a_state_file_may_end_anywhere(kept: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever a crash cut the state file, the chunks are those of its last complete line."""
    path = tmp_path_factory.mktemp("cut") / "export.csv"
    interrupted(path, b"one\n", b"two\n", b"three\n", rest=b"fo")
    state = path.with_name("export.csv.part.state")
    head, *lines = state.read_bytes().splitlines(keepends=True)
    lines = [line for line in lines if line.strip()]
    whole = state.read_bytes()[:kept]
    state.write_bytes(whole)
    expected = 0
    end = len(head)
    for line in lines:
        end += 1 + len(line)
        expected += kept >= end - 1  # without its line break it is complete as well
    file = opened(path)
    assert file.chunks == (expected if kept >= len(head) - 1 else 0)
    add(file, *[b"one\n", b"two\n", b"three\n"][file.chunks :])
    file.close()
    file = opened(path)
    assert file.chunks == 3
    file.complete()
    file.close()

    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_two_exports_never_share_a_file(path: Path) -> None:
    """A second export to the same path is an error, and leaves the first alone."""
    first = opened(path)
    add(first, b"one\n")
    with pytest.raises(ExportError, match=r"export\.csv\.part is in use by another export"):
        opened(path)
    first.complete()
    first.close()

    assert path.read_bytes() == b"one\n"


def test_a_file_that_is_renamed_while_it_is_opened_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the partial file becomes another export's target meanwhile, a new one is opened."""
    other = opened(path)
    add(other, b"one\n")
    lock = fcntl.flock

    def finish_first(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        other.complete()
        other.close()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    file = opened(path)
    add(file, b"two\n")

    assert path.read_bytes() == b"one\n"
    file.complete()
    file.close()
    assert path.read_bytes() == b"two\n"


def test_a_partial_file_that_was_moved_is_an_error(path: Path) -> None:
    """An export whose partial file has gone does not replace the target."""
    file = opened(path)
    add(file, b"one\n")
    path.with_name("export.csv.part").unlink()
    with pytest.raises(ExportError, match="was deleted, moved or replaced during the export"):
        file.complete()
    file.close()

    assert not path.exists()


def test_an_export_without_a_chunk_leaves_the_files_of_another(path: Path) -> None:
    """The partial file that is removed is the own one, not one that has taken its place."""
    file = opened(path)
    path.with_name("export.csv.part").unlink()
    other = opened(path)
    add(other, b"one\n")
    file.close()
    other.complete()
    other.close()

    assert path.read_bytes() == b"one\n"


def test_an_error_at_the_end_does_not_hide_another(path: Path) -> None:
    """A file that cannot be removed is left; the reason why the export ended is raised."""
    file = opened(path)
    state = path.with_name("export.csv.part.state")
    state.unlink()
    state.mkdir()
    file.close()

    assert names(path) == ["export.csv.part", "export.csv.part.state"]


def test_a_chunk_counts_once_it_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk is flushed before the line that counts it, and the folder after the rename."""
    flushed: list[tuple[int, int]] = []  # the file, and the lines of the state file by then
    state = path.with_name("export.csv.part.state")
    flush = os.fsync

    def fsync(handle: int) -> None:
        flush(handle)
        lines = state.read_bytes().count(b"\n") if state.exists() else 0
        flushed.append((os.fstat(handle).st_ino, lines))

    monkeypatch.setattr(os, "fsync", fsync)
    file = opened(path)
    add(file, b"one\n")
    files = (state, path.with_name("export.csv.part"), path.parent)
    counts, chunk, folder = (each.stat().st_ino for each in files)
    file.complete()
    file.close()

    assert flushed == [(counts, 1), (chunk, 1), (counts, 3), (folder, 0)]


def test_only_a_regular_file_is_replaced(path: Path) -> None:
    """A folder, a device or a pipe is an error before anything is sent."""
    os.mkfifo(path)

    with pytest.raises(ExportError, match="is not a regular file"):
        opened(path)
    with pytest.raises(ExportError, match="is not a regular file"):
        opened(Path("/dev/null"))
    with pytest.raises(ExportError, match=r"/missing/export\.csv cannot be written: No such file"):
        opened(path.parent / "missing" / "export.csv")
    with pytest.raises(ExportError, match=r"^/ is not a regular file"):
        opened(Path("/"))
    with pytest.raises(ExportError, match="must not contain a null byte"):
        opened(path.with_name("a\0b"))
    assert names(path) == ["export.csv"]


def test_a_symbolic_link_is_followed(path: Path) -> None:
    """The target of a link is replaced, not the link."""
    target = path.with_name("target.csv")
    path.symlink_to(target)
    file = opened(path)
    add(file, b"one\n")
    file.complete()
    file.close()

    assert path.is_symlink()
    assert target.read_bytes() == b"one\n"


def test_a_partial_file_that_is_a_link_is_an_error(path: Path) -> None:
    """Nothing is written through a link that somebody put in the place of the partial file."""
    path.with_name("export.csv.part").symlink_to(path.with_name("victim"))

    with pytest.raises(ExportError, match="cannot be written"):
        opened(path)
    assert not path.with_name("victim").exists()


def test_a_state_file_that_is_a_link_is_an_error(path: Path) -> None:
    """Nothing is written through a link that somebody put in the place of the state file."""
    victim = path.with_name("victim")
    victim.write_bytes(b"precious")
    path.with_name("export.csv.part.state").symlink_to(victim)
    file = ExportFile(path, "an export")

    with pytest.raises(ExportError, match="cannot be written"):
        file.open()
    file.close()
    assert victim.read_bytes() == b"precious"


def test_complete_chunks_survive_a_start_that_fails(path: Path) -> None:
    """A process without a free descriptor for the state file costs no chunk."""
    interrupted(path, b"one\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open("rb") as lowest:
        free = lowest.fileno()
    file = ExportFile(path, "an export")
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        with pytest.raises(ExportError, match="Too many open files"):
            file.open()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        file.close()

    again = opened(path)
    assert again.chunks == 1
    again.close()


def test_a_start_that_fails_leaves_no_empty_file(path: Path) -> None:
    """A partial file that did not exist before is removed again."""
    path.with_name("export.csv.part.state").mkdir()
    file = ExportFile(path, "an export")
    with pytest.raises(ExportError, match="Is a directory"):
        file.open()
    path.with_name("export.csv.part.state").rmdir()
    file.close()

    assert names(path) == []


@pytest.fixture
def full() -> Iterator[Output]:
    """Return the output to a device that is full."""
    with Path("/dev/full").open("r+b", buffering=0) as file:
        yield Output(file, "a full disk")


def test_a_full_disk_is_an_error(full: Output) -> None:
    """An error of the system names the file."""
    with pytest.raises(ExportError, match="a full disk cannot be written: No space left on device"):
        full.append(b"one\n")


@contextlib.contextmanager
def file_size(limit: int) -> Iterator[None]:
    """Let no file of this process become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill_temporary(size: int) -> None:
    """Write to a temporary file."""
    with temporary() as output:
        output.append(b"x" * size)
        output.accept()


@pytest.mark.parametrize("size", [900, 90_000], ids=["in the buffer", "beyond the buffer"])
def test_a_chunk_that_does_not_fit_is_discarded(path: Path, size: int) -> None:
    """When the disk is full, complete chunks stay, and the export can be resumed later."""
    file = opened(path)
    add(file, b"one\n")
    with file_size(500):
        with pytest.raises(ExportError, match=r"\.part cannot be written: File too large"):
            add(file, b"x" * size)
        file.close()
        with pytest.raises(ExportError, match="the temporary file cannot be written"):
            fill_temporary(size)
    file = opened(path)
    assert (file.chunks, file.output.size) == (1, 4)
    add(file, b"two\n")
    file.complete()
    file.close()

    assert path.read_bytes() == b"one\ntwo\n"


def test_a_state_without_its_file_starts_fresh(path: Path) -> None:
    """A process that was killed after the target was replaced leaves a state of no use."""
    interrupted(path, b"one\n")
    path.with_name("export.csv.part").rename(path)
    file = opened(path)

    assert (file.chunks, file.output.size) == (0, 0)
    file.close()
    assert names(path) == ["export.csv"]


def test_a_temporary_file_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Received lines leave nothing on the disk; a missing folder is an error."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary() as output:
        output.append(b"one\n")
        output.accept()
        output.append(b"tw")
        output.discard()
        assert output.file.read() == b""
        assert output.head(3) == b"one"
        output.clear()
        assert output.head(3) == b""
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ExportError, match="a temporary file cannot be written"), temporary():
        pass


def test_a_system_without_file_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without POSIX locks is an error."""
    monkeypatch.delattr(os, "O_NOFOLLOW")

    with pytest.raises(ExportError, match="needs POSIX file locks"):
        opened(path)


def test_a_file_that_was_not_opened_can_be_closed(path: Path) -> None:
    """An export that fails to open has nothing to close."""
    ExportFile(path, "an export").close()

    assert not path.exists()
