"""A sandbox in a process of its own, as the server of a benchmark."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import msgspec

from adapty_async.sandbox import Arrival

__all__ = ("Server", "running_sandbox")

T = TypeVar("T")


class Server:
    """An HTTP client for a running sandbox."""

    def __init__(self, url: str, api_key: str, mail_api_key: str) -> None:
        self.url = url
        self.api_key = api_key
        self.mail_api_key = mail_api_key

    def seed(self, ids: Iterable[str]) -> None:
        """Add profiles with these customer user ids."""
        body = "\n".join(json.dumps(each) for each in ids).encode()
        self._get("/_sandbox/seed", body)

    def state(self) -> dict[str, Any]:
        """Return the counts of profiles and arrivals."""
        content: dict[str, Any] = json.loads(self._get("/_sandbox/state"))
        return content

    def arrivals(self) -> Iterator[Arrival]:
        """Return all requests that arrived, oldest first."""
        return self._lines("/_sandbox/arrivals", Arrival)

    def profiles(self, api: Literal["v1", "mail"]) -> set[str]:
        """Return the ids of the profiles that exist."""
        return set(self._lines(f"/_sandbox/profiles?api={api}", str))

    def _lines(self, path: str, kind: type[T]) -> Iterator[T]:
        decoder = msgspec.json.Decoder(kind)
        with urllib.request.urlopen(self.url + path) as response:  # loopback
            yield from map(decoder.decode, response)

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.url + path, data=body) as response:  # loopback
            content: bytes = response.read()
        return content


@contextlib.contextmanager
def running_sandbox(*options: str) -> Iterator[Server]:
    """Start the sandbox, and stop it when the block ends."""
    command = [sys.executable, "-u", "-m", "adapty_async.cli", "sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            settings: dict[str, str] = {}
            while "ADAPTY_MAIL_API_KEY" not in settings:  # the last one
                for word in process.stdout.readline().split():
                    name, _, value = word.partition("=")
                    settings[name] = value
            yield Server(
                settings["ADAPTY_BASE_URL"],
                settings["ADAPTY_API_KEY"],
                settings["ADAPTY_MAIL_API_KEY"],
            )
        finally:
            process.terminate()
