"""
Frames: what was packed is read again, a torn end is left out, and damage is told.
"""

from __future__ import annotations

import io
import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapty_async import JournalError
from adapty_async.bulk._frames import CONTENT_LIMIT, Frame, pack, scan

HEAD = 16
CONTENTS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=80), st.floats(0, 2e9)), min_size=1, max_size=8
)


def read(data: bytes, start: int = 0) -> list[Frame]:
    """
    Return all frames.
    """
    return list(scan(io.BytesIO(data), start))


def ends_of(frames: list[bytes]) -> list[int]:
    """
    Return where each frame ends.
    """
    return list(itertools.accumulate(map(len, frames)))


@given(contents=CONTENTS, before=st.binary(max_size=30))
def test_what_was_packed_is_read_again(contents: list[tuple[bytes, float]], before: bytes) -> None:
    """
    Contents, times and ends come back as they were, from any place in a file.
    """
    packed = [pack(content, time) for content, time in contents]
    found = read(before + b"".join(packed), len(before))

    assert [(frame.content, frame.time) for frame in found] == contents
    assert [frame.end - len(before) for frame in found] == ends_of(packed)


@given(contents=CONTENTS)
def test_a_torn_end_is_left_out(contents: list[tuple[bytes, float]]) -> None:
    """
    Cut off anywhere, the frames that are whole are read, and no other.
    """
    packed = [pack(content, time) for content, time in contents]
    data, ends = b"".join(packed), ends_of(packed)
    for cut in range(len(data)):
        assert [frame.end for frame in read(data[:cut])] == [end for end in ends if end <= cut]


@given(contents=CONTENTS, where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_damage_is_told_or_only_the_last_frame_is_lost(
    contents: list[tuple[bytes, float]], where: float, mask: int
) -> None:
    """
    Whichever byte is wrong, the frames before are read, and what comes after is not passed over.
    """
    packed = [pack(content, time) for content, time in contents]
    data, ends = bytearray(b"".join(packed)), ends_of(packed)
    offset = int(where * len(data))
    data[offset] ^= mask
    hit = sum(end <= offset for end in ends)
    frames = scan(io.BytesIO(bytes(data)), 0)

    assert [frame.end for frame in itertools.islice(frames, hit)] == ends[:hit]
    if hit == len(packed) - 1:
        assert list(frames) == []
    else:
        with pytest.raises(JournalError, match=f"damaged at byte {(0, *ends)[hit]};"):
            next(frames)


@pytest.mark.parametrize("fill", [0, 1, 255, None], ids=["zeros", "ones", "ff", "random"])
@pytest.mark.parametrize("cut", [1, HEAD - 1, HEAD, HEAD + 1, HEAD + CONTENT_LIMIT - 1])
def test_the_largest_frame_may_be_torn(fill: int | None, cut: int) -> None:
    """
    A frame as large as they get is a torn tail wherever it is cut, whatever it holds.
    """
    size = CONTENT_LIMIT
    content = Random(1).randbytes(size) if fill is None else bytes([fill]) * size
    whole = pack(b"first", 1.0)

    assert [frame.content for frame in read(whole + pack(content, 2.0))] == [b"first", content]
    assert [frame.content for frame in read(whole + pack(content, 2.0)[:cut])] == [b"first"]


@pytest.mark.parametrize("length", [0, CONTENT_LIMIT + 1, (1 << 32) - 1])
@pytest.mark.parametrize("followed", [False, True], ids=["last", "followed"])
def test_a_length_that_cannot_be_is_no_frame(length: int, followed: bool) -> None:  # noqa: FBT001
    """
    An impossible length is a torn end, or damage if a frame comes after it.
    """
    wrong = length.to_bytes(4, "little") + bytes(HEAD)
    if followed:
        with pytest.raises(JournalError, match="damaged at byte 0"):
            read(wrong + pack(b"next", 1.0))
    else:
        assert read(wrong) == []


def test_more_than_a_frame_can_hold_is_damage() -> None:
    """
    A tail that is longer than the longest frame was not left by a crash.
    """
    assert read(bytes(HEAD + CONTENT_LIMIT)) == []
    with pytest.raises(JournalError, match="damaged"):
        read(bytes(HEAD + CONTENT_LIMIT + 1))


def test_a_large_frame_that_is_damaged_is_told_by_the_next() -> None:
    """
    What follows the largest frame is found.
    """
    data = bytearray(pack(b"\xff" * CONTENT_LIMIT, 1.0) + pack(b"next", 2.0))
    data[HEAD] = 0
    with pytest.raises(JournalError, match="damaged at byte 0"):
        read(bytes(data))
