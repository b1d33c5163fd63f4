"""The server of the command ``sandbox``: its addresses, its seed file and its log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import click

from adapty_async._runtime.words import counted
from adapty_async.errors import ConfigError
from adapty_async.sandbox import Sandbox


async def serve(server: Sandbox, seed_file: Path | None) -> None:
    """
    Serve a sandbox until this is cancelled; print its log, and the variables of its clients.

    Raises:
        ConfigError: the port, the database or the seed file cannot be used.
    """
    with _shown_log():
        await _start(server)
        try:
            if seed_file is not None:
                _seed(server, seed_file)
            click.echo(f"Sandbox at {server.url}, until Ctrl-C.")
            click.echo(f"Its page is {server.url}/. To use it:\n")
            for name, value in server.environment.items():  # one a line, for narrow terminals
                click.echo(f"export {name}={value}")
            await asyncio.Event().wait()
        finally:
            await server.stop()


async def _start(server: Sandbox) -> None:
    try:
        await server.start()
    except OSError as error:
        raise ConfigError(f"--port cannot be used: {error.strerror}") from None
    except sqlite3.Error as error:
        raise ConfigError(f"--db cannot be used: {error}") from None


@contextlib.contextmanager
def _shown_log() -> Iterator[None]:
    """Print the sandbox's log, such as the webhooks that it cannot deliver."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("adapty_async.sandbox")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _seed(server: Sandbox, path: Path) -> None:
    try:
        count = server.seed_file(path)
    except ValueError as error:
        raise ConfigError(f"--seed-file {click.format_filename(path)}, {error}") from None
    click.echo(f"{counted(count, 'profile')} added from {click.format_filename(path)}.")
