"""What an error shows to whoever prints, logs or stores it."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

from adapty_async import AdaptyError

# Where the methods are that the caller calls, and what describes their operations: what the caller
# passes to them is in their frames, as it is in the caller's own.
_RESOURCES = frozenset({"v1.py", "mail.py"})


def shown_by(error: BaseException | None) -> str:
    """Return all that an error says, in every way to make it speak, its origins included."""
    parts: list[str] = []
    while error is not None:
        parts += [str(error), repr(error), repr(vars(error))]
        if isinstance(error, AdaptyError):
            parts.append(repr(pickle.dumps(error)))
        parts += _frames(error)
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def _frames(error: BaseException) -> Iterator[str]:
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    yield from told.format_exception_only()
    for frame in told.stack:
        if Path(frame.filename).name not in _RESOURCES:
            yield f"{frame.filename} {frame.name} {frame.locals}"
