"""Connections to PostgreSQL: their options, and the causes of those that fail."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from adapty_async._runtime.postgres import connect_options, explain_failure
from adapty_async.errors import StoreError
from adapty_async.jobs import JobError, JobStore, Query, StoreUnavailableError
from adapty_async.shared import SharedRate
from tests.cli.conftest import Invoke, invoke  # noqa: F401  a fixture
from tests.jobs.proxies import running_pooler
from tests.servers import fresh_database

_SSL_REQUEST = 8
_CLOSED = "user=u dbname=d host=127.0.0.1 port=1"


@contextmanager
def rejecting(message: str) -> Iterator[str]:
    """Run a server that rejects each connection with a message; yield its address."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the listener is closed
                return
            with connection:
                (size,) = struct.unpack(">I", connection.recv(4))
                connection.recv(size - 4)
                if size == _SSL_REQUEST:
                    connection.sendall(b"N")
                    connection.recv(4096)
                fields = f"SFATAL\0C28000\0M{message}\0\0".encode()
                connection.sendall(b"E" + struct.pack(">I", len(fields) + 4) + fields)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"postgresql://anna:s3cret@127.0.0.1:{listener.getsockname()[1]}/jobs"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ('password authentication failed for user "anna"', "the user or the password is wrong"),
        ('"trust" authentication failed', "the user or the password is wrong"),  # PgBouncer
        ('database "jobs" does not exist', "there is no such database"),
        ("no such database: jobs", "there is no such database"),  # PgBouncer
        ('role "anna" does not exist', "there is no such user"),
        ('role "anna" is not permitted to log in', "there is no such user"),
        ('no pg_hba.conf entry for host "h", user "anna", no encryption', "its pg_hba.conf does"),
        ('permission denied for database "jobs"', "the user must not connect to the database"),
        ("sorry, too many clients already", "it has no free connection; run fewer workers"),
        ('too many connections for role "anna"', "it has no free connection"),
        ("remaining connection slots are reserved for superusers", "it has no free connection"),
        ("no more connections allowed (max_client_conn)", "it has no free connection"),
        ("query_wait_timeout", "the pooler gets no connection"),  # PgBouncer
        ("the database system is starting up", "the server is a standby, starts or stops"),
        ('unrecognized configuration parameter "x"', "an option in the address is not valid"),
        ("contraseña incorrecta", "no connection; `psql` with the same address shows why"),
    ],
)
def test_the_cause_of_a_rejected_connection_is_named(message: str, cause: str) -> None:
    """The message of a server becomes a cause and a remedy, without a name or a password."""
    with rejecting(message) as url, pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(url)
    found = explain_failure(caught.value)
    assert found.startswith(cause)
    assert "anna" not in found


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        (_CLOSED, "no server listens there"),
        ("host=/nowhere", "no server listens there"),
        ("host=s3cret@nowhere.invalid", "its host has no such name"),
        (f"{_CLOSED} sslmode=x", "an option in the address is not valid"),
    ],
    ids=["closed", "socket", "host", "option"],
)
def test_the_cause_of_a_connection_without_a_server_is_named(address: str, cause: str) -> None:
    """A password that was written without quotes may become a part of the host's name."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(address)
    found = explain_failure(caught.value)
    assert found.startswith(cause)
    assert "s3cret" not in found


def test_a_server_without_tls_and_one_without_a_password_are_named() -> None:
    """Both are found out by libpq itself."""
    with rejecting("") as url, pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(f"{url}?sslmode=require")
    assert explain_failure(caught.value).startswith("the server has no TLS; turn it on there")


def test_one_of_several_hosts_names_what_is_wrong(postgres_url: str) -> None:
    """A host that is down does not hide that another one is of no use."""
    folder = urllib.parse.parse_qs(urllib.parse.urlsplit(postgres_url).query)["host"][0]
    hosts = f"postgresql://postgres@/postgres?host=/nowhere,{folder}&target_session_attrs=standby"
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(hosts)
    assert explain_failure(caught.value).startswith("the server is a standby, starts or stops")


async def test_every_user_of_a_database_names_the_cause(
    invoke: Invoke,  # noqa: F811  the fixture
) -> None:
    """A job store, its rate, a query and the command line tell the same, and no password."""
    with rejecting('password authentication failed for user "anna"') as url:
        text = "the user or the password is wrong; correct the address, or PGPASSWORD"
        found = []
        with pytest.raises(StoreUnavailableError, match=text) as caught:
            await JobStore(url).__aenter__()
        found.append(str(caught.value))
        with pytest.raises(StoreError, match=text) as failed:
            await SharedRate(url).__aenter__()
        found.append(str(failed.value))
        with pytest.raises(StoreUnavailableError, match=text) as caught:
            await asyncio.to_thread(Query(url, "SELECT 1, 'a'").plan, 10)
        found.append(str(caught.value))
        for command, code in (("status", 2), ("work", 75)):
            ended = await asyncio.to_thread(invoke, "job", command, "j", "--store", url)
            assert (ended.exit_code, ended.stdout) == (code, "")
            assert re.search(text, " ".join(ended.stderr.split()))
            found.append(ended.stderr)
    assert not any("s3cret" in each for each in found)


async def test_a_missing_right_is_named(postgres_url: str) -> None:
    """Since version 15 only the owner of a database may create tables in it."""
    with fresh_database(postgres_url) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE bare LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM public")
        bare = url.replace("//postgres@", "//bare@")
        try:
            text = "InsufficientPrivilege, SQLSTATE 42501: the user lacks a right"
            with pytest.raises(JobError, match=text):
                await JobStore(bare).__aenter__()
            with pytest.raises(StoreError, match=text):
                await SharedRate(bare).__aenter__()
        finally:
            connection.execute("DROP ROLE bare")


async def test_a_pooler_in_statement_mode_is_named_where_it_does_not_work(
    postgres_url: str,
) -> None:
    """A job and a query need transactions; a rate does not."""
    with fresh_database(postgres_url) as url:
        async with running_pooler(url) as pooler:
            pooler.allows_transactions = False
            with pytest.raises(JobError, match="PgBouncer in transaction or statement mode"):
                await JobStore(pooler.url).__aenter__()
            text = "a pooler in statement mode allows no transaction"
            with pytest.raises(StoreUnavailableError, match=text):
                await asyncio.to_thread(Query(pooler.url, "SELECT 1, 'a'").plan, 10)
            async with SharedRate(pooler.url):
                pass


def test_a_connection_ends_with_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has timeouts, unless the address or the environment has other ones."""
    url = "postgresql://h/d"
    options = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    assert connect_options(url, connect=4.1, silence=25.0) == options
    assert connect_options(url, connect=0.1, silence=0.5) == {
        **options,
        "connect_timeout": 2,
        "keepalives_idle": 1,
        "keepalives_interval": 1,
        "tcp_user_timeout": 500,
    }
    several = connect_options("postgresql://h,g,f/d", connect=10.0, silence=25.0)
    assert several["connect_timeout"] == 4  # for each
    given = "&".join(f"{name}=9" for name in options)
    assert connect_options(f"{url}?{given}", connect=4.1, silence=25.0) == {}
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "9")
    del options["connect_timeout"]
    assert connect_options(url, connect=4.1, silence=25.0) == options


def test_a_query_does_not_wait_for_ever_for_a_connection() -> None:
    """A server that accepts connections and says nothing is left after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        query = Query(f"postgresql://127.0.0.1:{port}/d?connect_timeout=2", "SELECT 1, 'a'")
        with pytest.raises(StoreUnavailableError, match="the server does not respond"):
            query.plan(10)
