"""Faults in bodies of responses: framing, content, encoding and size."""

from __future__ import annotations

import gzip
import zlib

from tests._support import CANARY_EMAIL, CANARY_KEY
from tests.faults.ends import OK, bodiless, cell, fine, late, lost, unreadable
from tests.faults.responses import CHUNKED, HEAD, MIB, content, error_body, packed, page, response
from tests.raw_server import CLOSE, RESET, STALL, Drip

_PLAIN = b'{"data":{}}'
_GZIP = gzip.compress(_PLAIN)
_GZIP_OF_MORE = gzip.compress(b'{"data":{"more":"' + b"abcdefghijklmnopqrstuvwxyz" * 9 + b'"}}')

BODY = (
    lost("reset in the body", (response(200, b"12345")[:-1], RESET)),
    lost("body shorter than its length", (response(200, b"12345")[:-1], CLOSE)),
    lost("body of chunks that ends early", (CHUNKED + b"5\r\n123", CLOSE)),
    lost("last chunk missing", (CHUNKED + b"2\r\n{}\r\n", CLOSE)),
    lost("chunk size that is no number", (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",)),
    lost("chunk size beyond 64 bits", (CHUNKED + b"f" * 17 + b"\r\n{}", CLOSE)),
    late("body that stops", response(200, b"12345")[:-1], STALL),
    late(
        "body that never ends, a byte at a time",
        HEAD + b"Content-Length: 100000\r\n\r\n",
        Drip(b" "),
    ),
    bodiless("no body at 200", response(200, b"")),
    bodiless("no body at 201", response(201, b"")),
    fine("202 Accepted", response(202)),
    bodiless("204", b"HTTP/1.1 204 No Content\r\n\r\n"),
    bodiless("204 with a length of 0", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
    lost("204 with a body", (response(204),)),
    lost("more body than its length", (response(200, b"{}") + b"{}{}{}",)),
    fine("byte order mark", *content(b"\xef\xbb\xbf{}")),
    fine("white space around", *content(" \r\n{}\n")),
    fine("unknown fields", *content('{"data":{"fresh":[1,{"a":null}]}}')),
    fine("more than its data", *content('{"data":{},"more":1}')).but(
        delete=cell("DecodeError", "failed", 1)  # the API's has no content
    ),
    fine("keys that come twice", *content('{"data":{},"data":{}}')),
    unreadable("page instead of JSON", page(200)),
    unreadable("not JSON", content(f"{CANARY_EMAIL} {CANARY_KEY}")),
    unreadable("half of the JSON", content(f'{{"data":{{"email":"{CANARY_EMAIL}"')),
    unreadable("null", content("null")),
    unreadable("list", content(f'["{CANARY_EMAIL}"]')),
    unreadable("number of 5,000 digits", content("1" * 5000)),
    unreadable(
        "not UTF-8", content(b'{"data":{"email":"\xff' + CANARY_EMAIL.encode() + b'"}}')
    ).but(delete=OK, upsert=OK),
    unreadable("NaN", content('{"data":{"first_name":NaN}}')),
    unreadable("nested 200,000 deep", content('{"data":' + "[" * 200_000)),
    unreadable("error in spite of 200", content(error_body(400, "oops"))),
    unreadable(
        "id of another type", content(f'{{"data":{{"profile_id":["{CANARY_EMAIL}"]}}}}')
    ).but(delete=OK, upsert=OK),
    fine("field of another type", *content(f'{{"data":{{"email":["{CANARY_EMAIL}"]}}}}')),
)

ENCODING = (
    fine("gzip", packed(_GZIP)),
    fine("deflate", packed(zlib.compress(_PLAIN), "deflate")),
    fine("deflate without its header", packed(zlib.compress(_PLAIN, wbits=-15), "deflate")),
    fine("gzip of two members", packed(gzip.compress(b'{"data"') + gzip.compress(b":{}}"))),
    fine(
        "gzip in chunks of a byte",
        HEAD
        + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % byte for byte in _GZIP)
        + b"0\r\n\r\n",
    ),
    bodiless("gzip of nothing", packed(b"")),
    fine("identity", packed(_PLAIN, "identity")),
    lost("gzip that is plain", (packed(_PLAIN),)),
    fine("gzip without its checksum", packed(_GZIP[:-8])),
    unreadable("gzip that ends early", (packed(_GZIP_OF_MORE[:-20]),)),
    lost("gzip with a wrong checksum", (packed(_GZIP[:-8] + b"\0" * 8),)),
    lost("gzip with stray bytes after it", (packed(_GZIP + b"stray"),)),
    unreadable("gzip twice", (packed(gzip.compress(_GZIP), "gzip, gzip"),)),
    unreadable("unknown coding", (packed(_GZIP, "zip"),)),
    lost("brotli, which was not requested", (packed(b'\x0b\x05\x80{"data":{}}\x03', "br"),)),
)

SIZE = (
    fine("8 MiB", response(200, b" " * (8 * MIB - 2) + b"{}")),
    unreadable("9 MiB with their length", (response(200, b" " * 9 * MIB),)),
    unreadable("chunks without end", (CHUNKED, *(b"100000\r\n" + b" " * MIB + b"\r\n",) * 64)),
    unreadable("gzip of 80 MiB", (packed(gzip.compress(b" " * 80 * MIB)),)),
    unreadable("deflate of 80 MiB", (packed(zlib.compress(b" " * 80 * MIB), "deflate"),)),
    unreadable("500 of 9 MiB", (response(500, b" " * 9 * MIB),)),
)
