"""Handlers of the signals that stop a run, on every system."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# Windows has no SIGHUP, and others have no SIGBREAK.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


@contextlib.contextmanager
def handled(handler: Callable[[int], object]) -> Iterator[None]:
    """
    Call a function in the running event loop for each signal that asks the process to end.

    With nohup, SIGHUP stays ignored. Outside of the main thread, Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = {name: getattr(signal, name) for name in _NAMES if hasattr(signal, name)}
    if "SIGHUP" in numbers and signal.getsignal(numbers["SIGHUP"]) is signal.SIG_IGN:
        del numbers["SIGHUP"]
    with contextlib.ExitStack() as stack:
        for number in numbers.values():
            stack.callback(_add_handler(number, handler))
        yield


def _add_handler(number: int, handler: Callable[[int], object]) -> Callable[[], object]:
    """Add a handler for a signal, and return a function that removes it."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, handler, number)
    except NotImplementedError:  # Windows: a handler of Python's own, which wakes the loop
        before = signal.getsignal(number) or signal.SIG_DFL  # None is a handler of C's

        def wake(received: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(handler, received)

        signal.signal(number, wake)
        return lambda: signal.signal(number, before)
    return lambda: loop.remove_signal_handler(number)
