"""A collector of everything that printing, logging or storing an error shows."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

from adapty_async import AdaptyError

# Modules of the methods that users call: their frames contain the arguments, like the user's own.
_RESOURCES = frozenset({"v1.py", "mail.py"})


def shown_by(error: BaseException | None) -> str:
    """Return every text form of an error, including its causes."""
    parts: list[str] = []
    while error is not None:
        parts += [str(error), repr(error), repr(vars(error))]
        if isinstance(error, AdaptyError):
            parts.append(repr(pickle.dumps(error)))
        parts += _frames(error)
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def _frames(error: BaseException) -> Iterator[str]:
    formatted = traceback.TracebackException.from_exception(error, capture_locals=True)
    yield from formatted.format_exception_only()
    for frame in formatted.stack:
        if Path(frame.filename).name not in _RESOURCES:
            yield f"{frame.filename} {frame.name} {frame.locals}"
