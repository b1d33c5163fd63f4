"""
A frame of lines at the end of a terminal's output, which is drawn again while a command runs.

Invariants:

- The cursor rests at the beginning of the frame. A terminal that becomes narrower may wrap its
  lines, so their number is not known; erasing from there to the end of the screen removes all.
- Lines that others write to standard error appear above the frame.
"""

from __future__ import annotations

import contextlib
from typing import Self

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    Group,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment

#: Erases from the line of the cursor to the end of the screen.
ERASE = "\r\x1b[J"


class Frame(RenderHook):
    """A live display on a terminal, drawn whenever its content changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._content: RenderableType = ""
        self._stack = contextlib.ExitStack()

    def show(self, content: RenderableType) -> None:
        """Replace the content of the frame."""
        self._content = content
        self._console.print(Control())  # the hook adds the content

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return what is printed above the frame, and the frame."""
        return [_Erased(), *renderables, _Parked(self._content)]

    def __enter__(self) -> Self:
        console, stack = self._console, self._stack
        console.show_cursor(show=False)
        stack.callback(console.show_cursor)
        stack.callback(self._leave)
        console.push_render_hook(self)
        stack.callback(console.pop_render_hook)
        # not standard output, which may be a file
        stack.enter_context(contextlib.redirect_stderr(FileProxy(console, console.file)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _leave(self) -> None:
        """Draw the last content, and leave it on the screen."""
        # in a group, since the console joins texts, and then wraps them
        self._console.print(_Erased(), Group(self._content))


class _Erased:
    """An instruction to erase the frame."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(ERASE, None, [(ControlType.CARRIAGE_RETURN,)])


class _Parked:
    """The lines of a frame, after which the cursor returns to the first one."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._content, options.update(height=None), pad=False)
        lines = lines[: options.size.height]
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line
        up = [(ControlType.CURSOR_UP, len(lines) - 1)] if len(lines) > 1 else []
        yield Control(ControlType.CARRIAGE_RETURN, *up)
