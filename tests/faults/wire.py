"""Faults below HTTP bodies: connections, TLS, reused connections and headers."""

from __future__ import annotations

from tests.faults import targets
from tests.faults.ends import Fault, fine, forbidden, late, lost, unreached
from tests.faults.responses import HEAD, page, response
from tests.raw_server import CLOSE, HOLD, RESET, STALL, UNREAD, Drip, Step

CONNECTING = (
    unreached("connection refused", targets.CLOSED_PORT),
    unreached("neither accepted nor refused", targets.FULL_PORT),
    unreached("unknown host name", targets.UNKNOWN_NAME),
    forbidden("proxy that requires a password", targets.PROXY)._replace(steps=page(407)),
    unreached("proxy that cannot connect", targets.PROXY, *page(502)),
    lost("proxy that hangs up", (CLOSE,), arrives=0)._replace(
        once=None, target=targets.PROXY, dead=True
    ),
    lost("reset before the request was read", (UNREAD, RESET), arrives=0),
    lost("closed before the request was read", (UNREAD, CLOSE), arrives=0),
    lost("an SSH server's greeting", (UNREAD, b"SSH-2.0-OpenSSH_9.2\r\n", CLOSE), arrives=0),
)

TLS = (
    forbidden("certificate of an unknown issuer", targets.SELF_SIGNED),
    forbidden("certificate for another host", targets.WRONG_HOST),
    forbidden("certificate that has expired", targets.EXPIRED),
    unreached("server without TLS", targets.PLAIN_SERVER_BY_TLS, UNREAD, *page(400), CLOSE),
    unreached("server with an old TLS only", targets.OLD_TLS),
    unreached("reset in the handshake", targets.PLAIN_SERVER_BY_TLS, UNREAD, RESET),
    unreached("closed in the handshake", targets.PLAIN_SERVER_BY_TLS, UNREAD, CLOSE),
    lost("server requires a certificate", (), arrives=0)._replace(
        once=None, target=targets.CLIENT_CERTIFICATE, dead=True
    ),
    lost("reset over TLS, after the request", (RESET,))._replace(target=targets.TRUSTED),
    lost("closed over TLS, in the body", (response(200, b"12345")[:-1], CLOSE))._replace(
        target=targets.TRUSTED
    ),
)


def kept(fault: Fault) -> Fault:
    """Return the fault after a successful call on the same connection."""
    return fault._replace(name=f"{fault.name}, on a reused connection", before=(response(),))


def idle(name: str, *steps: bytes | Step) -> Fault:
    """Return a fault of an idle connection."""
    return fine(name, response(), before=(response(), HOLD, *steps))


KEEPING = (
    kept(lost("reset at the request", (RESET,))),
    kept(lost("closed at the request", (CLOSE,))),
    kept(lost("reset in the headers", (HEAD, RESET))),
    idle("idle connection closed", CLOSE),
    idle("idle connection reset", RESET),
    idle("idle connection gets a 408 and is closed", *page(408), CLOSE),
    idle("idle connection gets a stray response", response(500)),
    fine("Connection: close, but stays open", response(200, b"{}", "Connection: close")),
    fine("closes after each response", response(), CLOSE),
    fine("stray response after the response", response() + response(500)),
    lost("stray bytes after the response", (response() + b"\r\n\r\nstray",)),
    fine("response of HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    fine("body until the connection closes", HEAD + b"\r\n{}", CLOSE),
)

HEADERS = (
    late("no response at all", STALL),
    lost("reset without a response", (RESET,)),
    lost("closed without a response", (CLOSE,)),
    lost("reset in the headers", (HEAD + b"X: y\r\n", RESET)),
    lost("closed in the headers", (HEAD + b"X: y\r\n", CLOSE)),
    late("headers that never end, a byte at a time", HEAD, Drip(b"X: y\r\n")),
    late("early hints without end", Drip(b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001)),
    lost("garbage for a status line", (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", CLOSE)),
    lost("a mail server's greeting", (b"220 mail.example ESMTP\r\n", CLOSE)),
    lost("status that is no number", (b"HTTP/1.1 abc OK\r\n\r\n", CLOSE)),
    lost("status of five digits", (b"HTTP/1.1 20000 OK\r\n\r\n", CLOSE)),
    lost("HTTP/2 over HTTP/1.1", (b"HTTP/2 200\r\ncontent-length: 2\r\n\r\n{}", CLOSE)),
    lost("header line without a colon", (HEAD + b"nonsense\r\n\r\n", CLOSE)),
    lost("NUL in a header", (HEAD + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}", CLOSE)),
    lost("header of 1 MB", (HEAD + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n", CLOSE)),
    lost("20,000 headers", (HEAD + b"X: y\r\n" * 20_000 + b"\r\n", CLOSE)),
    lost("two lengths", (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", CLOSE)),
    lost("negative length", (HEAD + b"Content-Length: -2\r\n\r\n{}", CLOSE)),
    lost("length that is no number", (HEAD + b"Content-Length: two\r\n\r\n{}", CLOSE)),
    lost(
        "length and chunks at once",
        (
            HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            CLOSE,
        ),
    ),
    fine("unknown transfer coding", HEAD + b"Transfer-Encoding: zip\r\n\r\n{}", CLOSE),
    fine(
        "early hints before the response",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response(),
    ),
    fine(
        "a hundred 100 Continue before the response",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + response(),
    ),
    fine("headers that are not ASCII", response(200, b"{}", "X-Name: é")),
    lost("name of a header that is not ASCII", (response(200, b"{}", "X-Né: y"),)),
    fine("cookies", response(200, b"{}", "Set-Cookie: a=b; Max-Age=soon; Domain=..")),
)
