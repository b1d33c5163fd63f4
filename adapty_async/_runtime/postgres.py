"""Connections to PostgreSQL: the options that end one whose server is gone, and why one fails."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

#: The cause of a command that takes too long, and a remedy.
NO_RESPONSE = "does not respond in time; check its load, the network, and a pooler's pool"
# The smallest timeout of a connection that libpq has, in seconds.
_MIN_CONNECT_SECONDS = 2
# Causes of a connection that fails, by words of the server, of PgBouncer or of libpq: no SQLSTATE
# is known then. Their text is not shown, since it may have a part of a password that was written
# without quotes. With several hosts each has a cause, and the first one here is shown.
_CAUSES = tuple(
    (re.compile(words, re.IGNORECASE), cause)
    for words, cause in (
        (
            "no password supplied",
            "a password is required; add it to the address, or set PGPASSWORD",
        ),
        (
            "authentication failed",
            "the user or the password is wrong; correct the address, or PGPASSWORD",
        ),
        (
            'database ".*" does not exist|no such database',
            "there is no such database; create it, or correct the address",
        ),
        (
            'role ".*" does not exist|no such user|not permitted to log in',
            "there is no such user, or it must not log in; create it, or correct the address",
        ),
        (
            r"pg_hba\.conf",
            "its pg_hba.conf does not allow the connection; allow it there, or add sslmode=require",
        ),
        (
            "permission denied for database",
            "the user must not connect to the database; grant it CONNECT",
        ),
        (
            "does not support SSL",
            "the server has no TLS; turn it on there, or change sslmode in the address",
        ),
        (
            "certificate|SSL error|private key",
            "TLS failed; check sslmode and the certificates that the address names",
        ),
        (
            "too many (clients|connections)|remaining connection|no more connections allowed",
            "it has no free connection; run fewer workers (three each), or raise max_connections",
        ),
        (
            "query_wait_timeout|server login|cannot connect to server",
            "the pooler gets no connection to the server; see its log, and the size of its pool",
        ),
        (
            r"read-only|hot standby|recovery mode|starting up|shutting down|not yet accept",
            "the server is a standby, starts or stops; it may pass",
        ),
        (
            "(resolve|translate) host|not known|name resolution",  # the last two of the system
            "its host has no such name; correct the address",
        ),
        (
            "timed? ?out|no route|unreachable",
            "the server does not respond; check the address and the network",
        ),
        (
            "is the server running",  # also after the words of the one before
            "no server listens there; start it, or correct the address",
        ),
        (
            "invalid|unrecognized|definition of service|bad value",
            "an option in the address is not valid; correct the address",
        ),
        ("closed the connection|reset by peer|connection is lost|broken pipe", "no connection"),
    )
)
_UNKNOWN = "no connection; `psql` with the same address shows why"
# Remedies of errors of statements, by SQLSTATE.
_REMEDIES = {
    "08P01": "a pooler in statement mode allows no transaction; use its session mode",
    "0A000": "the server may be a standby",
    "22P05": "the encoding of the database lacks a character of the text; use one in UTF8",
    "25006": "a standby can only be read; it may pass, or add target_session_attrs=read-write",
    "3F000": "no schema of search_path exists; create it, or correct search_path",
    "42501": "the user lacks a right; see its tables and rights in the documentation",
    "42P05": "a pooler passed on a session without a reset; see its server_reset_query",
    "53100": "the disk of the server is full",
    "57014": "the server cancelled the command; see its statement_timeout",
    "57P01": "the server stops, or ended the connection; it may pass",
}


def connect_options(url: str, *, connect: float, silence: float) -> dict[str, Any]:
    """
    Return options that end a connection whose server is gone, without those that a URL sets.

    Args:
        url: the address.
        connect: seconds to connect, for all hosts of the address; each has two seconds at least.
        silence: seconds after which the system ends a connection whose server sends no packet.
    """
    given = conninfo_to_dict(url)
    hosts = 1 + str(given.get("host") or given.get("hostaddr")).count(",")
    options = {
        "connect_timeout": max(_MIN_CONNECT_SECONDS, math.ceil(connect / hosts)),
        "keepalives_idle": max(1, round(0.4 * silence)),
        "keepalives_interval": max(1, round(0.2 * silence)),
        "keepalives_count": 3,
        "tcp_user_timeout": round(silence * 1000),  # without an acknowledgement
    }
    if os.environ.get("PGCONNECT_TIMEOUT"):
        del options["connect_timeout"]
    return {name: value for name, value in options.items() if name not in given}


def explain_failure(error: psycopg.Error) -> str:
    """Return the cause of an error and a remedy, without a value, an address or a password."""
    state = error.sqlstate
    if state is None:
        text = str(error)
        return next((cause for words, cause in _CAUSES if words.search(text)), _UNKNOWN)
    remedy = _REMEDIES.get(state)
    name = f"{type(error).__name__}, SQLSTATE {state}"
    return name if remedy is None else f"{name}: {remedy}"


def is_shared_by_pooler(error: psycopg.Error) -> bool:
    """Return whether PgBouncer rejects a transaction, since it shares sessions."""
    return "statement pooling mode" in str(error)
