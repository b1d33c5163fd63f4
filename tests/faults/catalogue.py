"""A catalogue of all faults by group."""

from __future__ import annotations

from tests.faults.content import BODY, ENCODING, SIZE
from tests.faults.ends import Fault
from tests.faults.says import RATE, REDIRECT, STATUS
from tests.faults.wire import CONNECTING, HEADERS, KEEPING, TLS

GROUPS: dict[str, tuple[Fault, ...]] = {
    "Connecting": CONNECTING,
    "TLS": TLS,
    "Kept connections": KEEPING,
    "Headers": HEADERS,
    "Bodies": BODY,
    "Encoding": ENCODING,
    "Size": SIZE,
    "Status": STATUS,
    "Redirects": REDIRECT,
    "Too many requests": RATE,
}
