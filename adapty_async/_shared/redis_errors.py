"""Causes of errors of a server of Redis' protocol, and their remedies."""

from __future__ import annotations

import re
from collections.abc import Iterator

# By the names and texts of an error and of those that it was raised for. The texts are not shown,
# since they name hosts, users and keys. Servers before version 7 put the error of a command of a
# script into the text of another one. Version 5 of the client has no classes for errors of clusters
# and replicas.
_CAUSES = tuple(
    (re.compile(words, re.MULTILINE), cause)
    for words, cause in (
        (
            "no password is set|without any password configured",
            "the server has no password; remove it from the address",
        ),
        (
            "HELLO must be called|Authentication required",
            "a password is required; add it to the address",
        ),
        ("^AuthenticationError", "the user or the password is wrong; correct the address"),
        (
            "^NoPermissionError|ACL failure|can't run this command|can't access",
            "the user lacks a right; see its commands and keys in the documentation",
        ),
        (
            "DB index|SELECT is not allowed",
            "the server has no database of that number; correct the address",
        ),
        (
            "^ReadOnlyError|READONLY|^MasterDownError|MASTERDOWN",
            "a replica can only be read; it may pass, or name the primary in the address",
        ),
        ("NOREPLICAS", "it has too few replicas to accept writes; it may pass"),
        (
            "^(Moved|Ask|ClusterDown|ClusterCrossSlot|TryAgain)Error|: (MOVED|ASK|CLUSTERDOWN) ",
            "a cluster of several nodes cannot be used; use a server of its own",
        ),
        ("^BusyLoadingError", "the server is starting; it may pass"),
        ("^ResponseError: BUSY", "a script of another program blocks the server; it may pass"),
        (
            "^OutOfMemoryError|OOM command",
            "its memory is full; raise maxmemory, or let it drop keys by maxmemory-policy",
        ),
        ("MISCONF", "it cannot save to its disk, and rejects writes; see its log"),
        (
            "max number of clients",
            "it has no free connection; run fewer processes, or raise maxclients",
        ),
        ("DENIED", "it rejects other machines; set a password there, and add it to the address"),
        (
            "unknown command|Unknown Redis command|(?i:wrong number of arg)",
            "the server is too old, or lacks a command; use Redis 6 or later, or a compatible one",
        ),
        (
            "^InvalidResponse",
            "the service there does not speak Redis' protocol; correct the address",
        ),
        (
            "^SSLCertVerificationError",
            "its certificate is not accepted; name its authority by ssl_ca_certs in the address",
        ),
        ("^SSL", "TLS failed; check the certificates, or use redis:// without TLS"),
        ("^gaierror", "its host has no such name; correct the address"),
        (
            "^ConnectionRefusedError|connecting to /",
            "no server listens there; start it, or correct the address",
        ),
        (
            "^(FileNotFound|Permission)Error",
            "a certificate that the address names cannot be read; correct the address",
        ),
        (
            "^TimeoutError",
            "it does not respond in time; check its load, the network, and its TLS for rediss://",
        ),
        (
            "^(ConnectionReset|BrokenPipe)Error|closed by",
            "the connection ended; check the server, its free connections, and if it expects TLS",
        ),
        ("unreachable|No route", "the server cannot be reached; check the address and the network"),
    )
)


def explain_failure(error: Exception) -> str:
    """Return the cause of an error and a remedy, without a value, an address or a password."""
    text = "\n".join(f"{type(one).__name__}: {one}" for one in _chain(error))
    unknown = f"{type(error).__name__}; `redis-cli` with the same address shows why"
    return next((cause for words, cause in _CAUSES if words.search(text)), unknown)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
