"""The next command of a job, as a line that a shell runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import urllib.parse
from collections.abc import Iterable, Iterator

from adapty_async.cli._job_work import Connection

__all__ = ("connection_options", "next_command")

# A comment of shells. A command that is printed may end up in a log.
_WITHOUT_PASSWORD = "  # with its password in PGPASSWORD"  # noqa: S105  none
_PASSWORD = re.compile(r"(?<=://)([^:@/?]*):[^@/?]*@")
_PASSWORDS = frozenset({"password", "sslpassword"})


def next_command(what: str, name: str, store: str | None, options: Iterable[str] = ()) -> str:
    """
    Return a command of ``job`` as a line that a shell runs.

    Args:
        what: the command, such as ``work``.
        name: the name of the job.
        store: the address of its store, which is shown without a password; None if the command
            finds it without the option.
        options: further options.
    """
    shown = None if store is None else _without_password(store)
    stores = [] if shown is None else ["--store", shown]
    # after the options, since a name may begin as they do
    names = ["--", name] if name.startswith("-") else [name]
    first, last = (names, []) if len(names) == 1 else ([], names)
    words = ["adapty-async", "job", what, *first, *stores, *options, *last]
    line = shlex.join(words) if os.name == "posix" else subprocess.list2cmdline(words)
    return line if shown == store else f"{line}{_WITHOUT_PASSWORD}"


def connection_options(connection: Connection) -> Iterator[str]:
    """Yield the options with which a user connects to Adapty in another way than by default."""
    if connection.base_url is not None:
        yield from ("--base-url", connection.base_url)
    if connection.trust_env:
        yield "--trust-env"
    if connection.api_key_file is not None:
        yield from ("--api-key-file", str(connection.api_key_file))
    if connection.id_encoding != "ascii":
        yield from ("--id-encoding", connection.id_encoding)


def _without_password(url: str) -> str:
    bare, mark, query = _PASSWORD.sub(r"\1@", url).partition("?")
    fields = [
        field
        for field in query.split("&")
        if urllib.parse.unquote(field.partition("=")[0]) not in _PASSWORDS
    ]
    return f"{bare}{mark if fields else ''}{'&'.join(fields)}"
