"""Tests of the servers that other tests use."""

from __future__ import annotations

import psycopg
import pytest
import redis

from tests.servers import OwnPostgres, OwnRedis, fresh_database


def test_a_killed_redis_comes_back_empty_at_its_address() -> None:
    """A server that was killed restarts at the same address, without its values."""
    with OwnRedis() as server:
        client = redis.Redis.from_url(server.url)
        client.set("key", "value")
        server.kill()
        with pytest.raises(redis.ConnectionError, match="refused"):
            client.get("key")
        server.start()

        assert client.get("key") is None
        client.close()


def test_a_killed_postgres_comes_back_at_its_address() -> None:
    """A server that was killed restarts at the same address, with what was committed."""
    with OwnPostgres() as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("create table kept as select 1")
        server.kill()
        with pytest.raises(psycopg.OperationalError, match="failed"):
            psycopg.connect(server.url)
        server.start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("select * from kept").fetchone() == (1,)


def test_a_fresh_database_exists_for_a_block(postgres_url: str) -> None:
    """A fresh database is empty, and gone after its block."""
    with fresh_database(postgres_url) as url, psycopg.connect(url) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname='public'")
        assert tables.fetchall() == []
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_the_shared_redis_responds(redis_url: str) -> None:
    """The server of the fixture responds."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
