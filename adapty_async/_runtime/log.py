"""A plain handler of the library's logger, which the environment variable of logs turns on."""

from __future__ import annotations

import logging
import os
import sys

_VARIABLE = "ADAPTY_ASYNC_LOG"
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger("adapty_async")


class _StandardErrorHandler(logging.Handler):
    """A handler that writes to the standard error of the moment, such as one above a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one line, with the lines of a traceback below it."""
        if sys.stderr is None:
            return
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001  logging decides what to do about it
            self.handleError(record)


_handler = _StandardErrorHandler()  # one, since adding it again has no effect
_handler.setFormatter(logging.Formatter(_FORMAT))


def apply_log_setting() -> bool:
    """
    Set the level of the library's logger from the environment; return whether it is DEBUG.

    Records go to standard error, unless the program has handlers of its own. A value that is no
    level is reported there, and changes no level.
    """
    value = os.environ.get(_VARIABLE, "").strip().lower()
    if not value:
        return False
    others = {*logging.getLogger().handlers, *logger.handlers} - {_handler}
    if all(isinstance(each, logging.NullHandler) for each in others):
        logger.addHandler(_handler)
    level = _LEVELS.get(value)
    if level is None:
        names = ", ".join(_LEVELS)
        logger.warning("%s is ignored: it must be one of %s", _VARIABLE, names)
        return False
    logger.setLevel(level)
    return level == logging.DEBUG
