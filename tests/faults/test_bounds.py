"""Bounds of the cost of a response: memory, time and connections, whatever the server does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest

from adapty_async import AdaptyClient, AdaptyError, Limits, RetryPolicy
from tests._support import CANARY_KEY
from tests.faults.responses import CHUNKED, HEAD, MIB, packed, response
from tests.raw_server import CLOSE, DONE, RESET, Drip, RawServer, Steps, in_thread, page

pytestmark = [pytest.mark.slow, pytest.mark.unmeasured]

#: The maximum memory of one response, in KiB.
COST = 32 * 1024
#: The seconds of a call that the deadline ends, and of one that ends before it on any machine.
HASTY, PATIENT = 1.0, 25.0

CHILD = """
import asyncio, json, sys, time
from pathlib import Path
from adapty_async import AdaptyClient, AdaptyError, RetryPolicy

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

async def main(url, deadline):
    async with AdaptyClient("key", base_url=url, retry=RetryPolicy(attempts=1)) as client:
        await client.v1.profiles.get(customer_user_id="u1")
        limited = client.with_options(deadline=float(deadline))
        before, started, used, error = peak(), time.monotonic(), time.process_time(), None
        try:
            await limited.v1.profiles.get(customer_user_id="u1")
        except AdaptyError as caught:
            error = caught
        elapsed, used, name = time.monotonic() - started, time.process_time() - used, type(error)
        del error
        cost = {"kib": peak() - before, "seconds": elapsed, "used": used, "error": name.__name__}
        print(json.dumps(cost))

asyncio.run(main(*sys.argv[1:]))
"""
has_peaks = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the system tells no peak of memory"
)


class Cost(NamedTuple):
    """The cost of one call in a process of its own, in real time and in time of the processor."""

    kib: int
    seconds: float
    used: float
    error: str


def cost_of(steps: Steps, deadline: float = PATIENT) -> Cost:
    """Make a call in a process of its own, with a scripted server."""
    with in_thread(RawServer(DONE, then=steps)) as server:
        command = [sys.executable, "-c", CHILD, server.url, str(deadline)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(**json.loads(done.stdout))


def packed_blanks(size: int, wbits: int) -> bytes:
    """Return `size` bytes of blanks, compressed in pieces."""
    packer = zlib.compressobj(9, wbits=wbits)
    pieces = [packer.compress(b" " * MIB) for _ in range(size // MIB)]
    return b"".join([*pieces, packer.flush()])


ENDLESS = tuple(b"100000\r\n" + b" " * MIB + b"\r\n" for _ in range(200))
ANSWERS: dict[str, tuple[Steps, str]] = {
    "200 MB in chunks": ((CHUNKED, *ENDLESS), "DecodeError"),
    "failure of 200 MB": (
        (b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n", *ENDLESS),
        "DecodeError",
    ),
    "announced petabyte": (
        (HEAD + b"Content-Length: 1125899906842624\r\n\r\n", *ENDLESS),
        "DecodeError",
    ),
    "headers of 200 MB": ((HEAD, *(b"X: " + b"x" * MIB,) * 200, CLOSE), "ConnectionLostError"),
    "a million headers": ((HEAD, *(b"X: y\r\n" * 10_000,) * 100, CLOSE), "ConnectionLostError"),
    "8 MB of brackets": ((response(200, b"[" * 8_000_000),), "DecodeError"),
    "8 MB of brackets inside": ((response(200, b'{"data":' + b"[" * 8_000_000),), "DecodeError"),
    "failure of 8 MB of lists": (
        (response(500, b'{"errors":[' + b"[]," * 2_700_000 + b"[]]}"),),
        "ServerError",
    ),
    "slow body without end": ((CHUNKED, Drip(b"1\r\n \r\n", 0.0005)), "RequestTimeoutError"),
    "slow headers without end": ((HEAD + b"X: ", Drip(b"x", 0.002)), "RequestTimeoutError"),
}


@has_peaks
@pytest.mark.parametrize("name", ANSWERS)
def test_a_response_costs_little_and_ends_in_time(name: str) -> None:
    """A hostile response costs less than 32 MB of memory and ends at the deadline at the latest."""
    steps, error = ANSWERS[name]
    is_late = error == "RequestTimeoutError"
    cost = cost_of(steps, HASTY if is_late else PATIENT)

    assert cost.error == error
    assert cost.kib < COST
    assert cost.used < 1.0
    assert not is_late or 0.9 * HASTY < cost.seconds < PATIENT


@has_peaks
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_costs_little(coding: str) -> None:
    """Of 200 MB in less than 200 KB, no more is decompressed than a response may have."""
    bomb = packed(packed_blanks(200 * MIB, 31 if coding == "gzip" else 15), coding)
    cost = cost_of((bomb,))

    assert len(bomb) < 250_000
    assert cost.error == "DecodeError"
    assert cost.kib < COST


FAULTS: dict[str, tuple[Steps, int]] = {
    "reset": ((RESET,), 2),
    "closed": ((CLOSE,), 2),
    "cut off": ((response(200, b"12345")[:-1], CLOSE), 2),
    "500": ((page(500),), 2),
    "429": ((page(429),), 2),
    "too large": ((response(200, b" " * 9 * MIB),), 1),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_faults_take_no_connections_away(name: str) -> None:
    """With two connections, two of many failing calls are in flight; later calls all succeed."""
    policy = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001)
    steps, attempts = FAULTS[name]
    async with (
        RawServer(*(steps,) * 6 * attempts) as server,
        AdaptyClient(
            CANARY_KEY, base_url=server.url, retry=policy, limits=Limits(connections=2)
        ) as client,
    ):
        calls = [client.v1.profiles.get(customer_user_id="u1") for _ in range(6)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*(client.v1.profiles.get(customer_user_id="u1") for _ in range(6)))

        assert all(isinstance(each, AdaptyError) for each in ended)
        assert server.most_active <= 2
