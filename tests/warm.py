"""
A warm interpreter: it has imported the library, and runs each program in a fork of its own.

An import takes half a second of CPU time, so fifty examples in fifty interpreters take long. The
fork server of `multiprocessing` is a process without threads, connections or event loops.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path

_PRELOADED = [
    "adapty_async",
    "adapty_async.sandbox",
    "adapty_async.testing",
    "adapty_async.webhooks",
]


async def run_warm(code: str, environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """
    Run a program as ``python -W error -c`` does, and return its exit code and its output.

    Args:
        code: the program.
        environment: variables that are set in addition.
        folder: where it runs; its output is in a file in the parent of this folder.
    """
    output = folder.parent / f"{folder.name}.output"
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(_PRELOADED)  # has no effect once the server runs
    process = forks.Process(target=_run, args=(code, dict(environment), str(folder), str(output)))
    process.start()
    try:
        await asyncio.to_thread(process.join)
    finally:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode, output.read_text("utf-8")


def _run(code: str, environment: dict[str, str], folder: str, output: str) -> None:
    """Become the program: its folder, environment, output, warnings and ``__main__``."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[0], sys.argv = "", ["-c"]
    logging.root.handlers.clear()
    warnings.simplefilter("error")
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)
