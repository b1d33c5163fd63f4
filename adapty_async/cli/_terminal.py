"""Text and JSON for a terminal: lines that fit, and escapes for characters it would act on."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from typing import Any, TextIO

import click
import msgspec

from adapty_async.errors import AdaptyError

# The end of the columns of a line, such as a name and a count: two blanks or more.
_COLUMNS = re.compile(r".*\S {2,}|")
_COMMAND = " adapty-async job "


def echo(text: str, *, err: bool = False) -> None:
    """
    Write text for people to standard output or error.

    The names of files and the content of inputs in it have escapes for control characters. Lines
    fit if the output is a terminal.
    """
    shown = "\n".join(map(visible, text.split("\n")))
    click.echo(fitted(shown, sys.stderr if err else sys.stdout), err=err)


def echo_data(text: str, *, nl: bool = True) -> None:
    """Write JSON or HTML to standard output: UTF-8 for programs, whatever the locale."""
    click.echo(text if sys.stdout.isatty() else text.encode(errors="replace"), nl=nl)


def echo_error(error: AdaptyError | str) -> None:
    """Write an error to standard error, on one line unless a terminal is narrow."""
    text = str(error).replace("pass api_key= in Python", "name a file with it by --api-key-file")
    echo(f"adapty-async: {visible(text)}", err=True)


def fitted(text: str, stream: TextIO | None) -> str:
    """Return text whose lines break at blanks to fit into a terminal; the same text for others."""
    width = _width_of(stream)
    if not width:
        return text
    return "\n".join(_folded(line, width) for line in text.split("\n"))


def _width_of(stream: TextIO | None) -> int:
    """Return the number of columns of a terminal; 0 if it is unknown, or for another stream."""
    try:
        return 0 if stream is None else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def _folded(line: str, width: int) -> str:
    """
    Return a line folded at blanks; the rest is below the last column, or indented a little.

    A command at its end stays on a line of its own: a shell would run two commands.
    """
    if len(line) <= width:
        return line
    before, mark, command = line.partition(_COMMAND)
    if mark:
        return f"{_folded(before, width)}\n {mark}{command}"
    columns = _COLUMNS.match(line)
    indent = columns.end() if columns else 0
    if not 0 < indent <= width // 2:
        indent = len(line) - len(line.lstrip())
        indent += 2 if indent else 0
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * indent,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )


def visible(text: str) -> str:
    """Return text with an escape of Python for each character that is not printable."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def visible_json(content: Any) -> str:
    """Return a value as JSON, with an escape of JSON for each character that is not printable."""
    text = msgspec.json.encode(content).decode()
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
