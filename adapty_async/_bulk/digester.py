"""Keyed digests of requests, by which a run identifies its items and the objects they create."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from adapty_async._api.call import Operation, Request, lock_key_of
from adapty_async._api.codec import plain
from adapty_async._journal import KEY_SIZE, OBJECT_KEY_SIZE
from adapty_async.errors import InvalidInputError

__all__ = ("Digester",)


class Digester:
    """
    Keyed digests of requests, without the headers of their client.

    Args:
        key: a secret.
    """

    def __init__(self, key: bytes) -> None:
        # the key is a prefix of the hashed data, which is as secure for BLAKE2 as its `key`; most
        # requests then fit into the same block, which halves the time
        self._keyed = hashlib.blake2b(key, digest_size=KEY_SIZE)
        # a set, such as a lock key, has another order in each process
        self._pack = msgspec.msgpack.Encoder(enc_hook=plain, order="deterministic").encode

    def of(self, operation: Operation[Any], request: Request) -> bytes:
        """Return the digest of a request. It begins with the key of the object it may create."""
        identity = operation.endpoint.name, operation.headers, operation.parameters, request.body
        if operation.if_missing is None or request.if_missing is None:
            return self._digest(identity)
        creation = self.of(operation.if_missing, request.if_missing)
        object_key = self.object_key(operation, request)
        return object_key + self._digest((*identity, creation))[OBJECT_KEY_SIZE:]

    def object_key(self, operation: Operation[Any], request: Request) -> bytes:
        """
        Return the key of the object that an operation is about, such as a profile.

        Raises:
            InvalidInputError: the lock key has a type of which there is no digest.
        """
        about = lock_key_of(operation)
        if about == id(operation):  # no headers or parameters; another process has another id
            about = operation.endpoint.path, request.body
        try:
            return self._digest(about)[:OBJECT_KEY_SIZE]
        except (NotImplementedError, OverflowError, UnicodeEncodeError):
            rule = "must return text, numbers or tuples of them, if the operation has an if_missing"
            raise InvalidInputError("Endpoint.lock_key", rule) from None

    def _digest(self, value: Any) -> bytes:
        digest = self._keyed.copy()
        digest.update(self._pack(value))
        return digest.digest()
