"""Causes of failures of a server of Redis' protocol, as the messages of a shared rate name them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from adapty_async._shared.redis import RedisStore
from adapty_async._shared.store import Change
from adapty_async.errors import StoreError
from adapty_async.shared import SharedRate
from tests.faults.certificates import are_to_be_had, server_context
from tests.servers import OwnRedis
from tests.shared.support import until

_RIGHTS = ("~adapty:rate:*", "+eval", "+time", "+hmget", "+hget", "+hset", "+pexpire", "+del")


async def failure(url: str) -> str:
    """Return the message of a shared rate that cannot be entered."""
    with pytest.raises(StoreError) as caught:
        await SharedRate(url).__aenter__()
    message = str(caught.value)
    assert "s3cret" not in message
    assert "anna" not in message
    assert caught.value.__context__ is None
    prefix, _, cause = message.partition("Redis is down, or rejected a command: ")
    assert prefix == ""
    return cause


@contextlib.asynccontextmanager
async def answering(words: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Run a server that answers each command with the same words; yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while words and (data := await reader.read(65536)):
                writer.write(words * data.count(b"*"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        scheme = "redis" if tls is None else "rediss"
        port = server.sockets[0].getsockname()[1]
        yield f"{scheme}://anna:s3cret@127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("redis://anna:s3cret@127.0.0.1:1", "no server listens there; start it, or correct"),
        ("unix://anna:s3cret@/nowhere/redis.sock", "no server listens there"),
        ("redis://anna:s3cret@nowhere.invalid", "its host has no such name; correct the address"),
        ("redis://anna:s3cret@@nowhere.invalid", "its host has no such name"),
        ("rediss://127.0.0.1:1?ssl_ca_certs=/nowhere/ca.pem", "a certificate that the address"),
    ],
    ids=["refused", "socket", "host", "password without quotes", "authority"],
)
async def test_the_cause_of_a_connection_without_a_server_is_named(url: str, cause: str) -> None:
    """It comes with a remedy, and without the address, which may have a password."""
    assert (await failure(url)).startswith(cause)


async def test_a_server_that_does_not_respond_is_named() -> None:
    """It accepts connections and says nothing, as a server without TLS does to one with it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("redis", "rediss"):
            found = await failure(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
            assert found.startswith("it does not respond in time; check its load, the network")


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("", "the connection ended; check the server, its free connections"),
        ("HTTP/1.1 400 Bad Request\r\n", "the service there does not speak Redis' protocol"),
        ("-LOADING Redis is loading the dataset in memory", "the server is starting; it may pass"),
        ("-MOVED 3999 10.0.0.1:6381", "a cluster of several nodes cannot be used"),
        ("-ASK 3999 10.0.0.1:6381", "a cluster of several nodes cannot be used"),
        ("-CLUSTERDOWN Hash slot not served", "a cluster of several nodes cannot be used"),
        ("-ERR max number of clients reached", "it has no free connection; run fewer processes"),
        ("-ERR unknown command `EVAL`, with args", "the server is too old, or lacks a command"),
        ("-ERR unknown command 'HELLO'", "the server is too old, or lacks a command"),
        ("-ERR wrong number of arguments for 'hset' command", "the server is too old"),
        ("-DENIED Redis is running in protected mode", "it rejects other machines"),
        ("-MISCONF Redis is configured to save RDB snapshots", "it cannot save to its disk"),
        ("-NOREPLICAS Not enough good replicas to write.", "it has too few replicas"),
        ("-BUSY Redis is busy running a script.", "a script of another program blocks"),
        ("-ERR Client sent AUTH, but no password is set", "the server has no password"),
        ("-ERR invalid password", "the user or the password is wrong"),
        # of scripts, before version 7
        (
            "-ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write",
            "a replica can only be read",
        ),
        (
            "-ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed",
            "its memory is full",
        ),
        (
            "-ERR Error running script: The user executing the script can't run this command",
            "the user lacks a right",
        ),
        ("-ERR anna", "ResponseError; `redis-cli` with the same address shows why"),
    ],
)
async def test_the_cause_of_a_rejected_command_is_named(words: str, cause: str) -> None:
    """The message of a server becomes a cause and a remedy, without its names and values."""
    async with answering(words.encode() + b"\r\n" * bool(words)) as url:
        assert (await failure(url)).startswith(cause)


def _read_only(server: Any) -> None:
    server.execute_command("REPLICAOF", "127.0.0.1", "1")


def _stale(server: Any) -> None:
    _read_only(server)
    server.config_set("replica-serve-stale-data", "no")


def _allowed(*rights: str) -> Callable[[Any], object]:
    def allow(server: Any) -> None:
        server.execute_command("ACL", "SETUSER", "anna", "on", ">s3cret", *rights)

    return allow


@pytest.mark.parametrize(
    ("prepare", "user", "cause"),
    [
        (lambda each: None, "anna:s3cret@", "the user or the password is wrong; correct the"),
        (
            lambda each: each.config_set("requirepass", "right"),
            ":s3cret@",
            "the user or the password is wrong",
        ),
        (lambda each: each.config_set("requirepass", "right"), "", "a password is required; add"),
        (_allowed("+@all", "~others:*"), "anna:s3cret@", "the user lacks a right"),
        (_allowed("+@all", "~*", "-eval"), "anna:s3cret@", "the user lacks a right"),
        (_allowed("+@all", "~*", "-pexpire"), "anna:s3cret@", "the user lacks a right"),
        (lambda each: each.config_set("maxmemory", "1"), "", "its memory is full; raise"),
        (_read_only, "", "a replica can only be read; it may pass, or name the primary"),
        (_stale, "", "a replica can only be read"),
    ],
    ids=[
        "unknown user",
        "wrong password",
        "no password",
        "keys",
        "command",
        "command of a script",
        "memory",
        "replica",
        "replica without its primary",
    ],
)
async def test_the_cause_at_a_server_is_named(
    prepare: Callable[[Any], object], user: str, cause: str
) -> None:
    """A server that runs names the same causes."""
    with OwnRedis() as own, redis.Redis.from_url(own.url) as server:
        prepare(server)
        assert (await failure(own.url.replace("//", f"//{user}"))).startswith(cause)


async def test_a_database_that_is_not_there_is_named(redis_url: str) -> None:
    """A server has sixteen of them by default."""
    found = await failure(f"{redis_url.rstrip('/')}/1000")
    assert found == "the server has no database of that number; correct the address"


async def test_the_rights_of_the_documentation_are_enough() -> None:
    """A user without other rights exchanges, and removes a value that is damaged."""
    with OwnRedis() as own, redis.Redis.from_url(own.url) as server:
        _allowed(*_RIGHTS)(server)
        store = RedisStore(own.url.replace("//", "//anna:s3cret@"))
        await store.open()
        assert await store.swap([Change("adapty:rate:one", 0, b"value")]) == [True]
        server.set("adapty:rate:two", "damaged")
        loaded = await store.load(["adapty:rate:one", "adapty:rate:two"])
        assert [each.version for each in loaded] == [1, 0]
        await store.aclose()


def test_the_documentation_has_these_rights() -> None:
    """The page about shared rates lists them as a command that gives them has them."""
    assert " ".join(_RIGHTS) in Path("docs/processes.md").read_text(encoding="utf-8")


async def test_a_server_that_rejects_a_process_in_a_run_is_an_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process continues alone, a warning names the cause, and it returns by itself."""
    with OwnRedis() as own, redis.Redis.from_url(own.url) as server:
        async with SharedRate(own.url) as rate:
            source = rate.rate_source("account", "v2")
            await until(lambda: source.exchanges)
            server.config_set("requirepass", "right")
            server.execute_command("CLIENT", "KILL", "SKIPME", "yes")
            await until(lambda: source.is_alone)
            (warning,) = caplog.messages
            assert warning.startswith(
                "shared rate: Redis is down, or rejected a command: a password is required; add it"
                " to the address; this process continues at "
            )
            server.config_set("requirepass", "")
            await until(lambda: not source.is_alone)


async def test_a_node_of_a_cluster_is_an_error_at_the_start() -> None:
    """It accepts some keys, which may be those at the start and not those of the account."""
    answers = itertools.cycle([b":1", b"-MOVED 3999 10.0.0.1:6381", b"-MOVED 3999 10.0.0.1:6381"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            commands = re.findall(rb"\r\n(EVAL|HELLO|CLIENT)\r\n", data)
            replies = (next(answers) if each == b"EVAL" else b"+OK" for each in commands)
            writer.writelines(each + b"\r\n" for each in replies)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        cause = await failure(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert cause == "a cluster of several nodes cannot be used; use a server of its own"


@pytest.mark.skipif(not are_to_be_had(), reason="it needs openssl")
async def test_the_causes_of_tls_are_named() -> None:
    """A certificate may not be trusted, and a server with TLS ends a connection without it."""
    async with answering(b"+OK\r\n", server_context("good")) as url:
        found = await failure(url)
        assert found.startswith("its certificate is not accepted; name its authority by ssl_ca_")
        found = await failure(f"{url}?ssl_ciphers=none")
        assert found.startswith("TLS failed; check the certificates")
        found = await failure(url.replace("rediss", "redis"))
        assert found.startswith("the connection ended; check the server")
