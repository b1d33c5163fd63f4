"""Faults in responses: statuses, redirects and throttling."""

from __future__ import annotations

from email.utils import formatdate

from tests.faults.ends import Fault, cell, final, fine, lost, unsent
from tests.faults.responses import page, response, said
from tests.raw_server import Steps


def broken(name: str, steps: Steps) -> Fault:
    """Return a response of a server that failed and may have acted before."""
    return lost(name, steps, "ServerError")


def failed(name: str, steps: Steps) -> Fault:
    """Return a response of a server that failed permanently."""
    return final(name, steps, "ServerError").but(create=cell("ServerError", "unknown", 1))


def early(name: str, steps: Steps) -> Fault:
    """Return a response that permits a retry, and does not prove that nothing was done."""
    end = cell("RequestRejectedError", "failed", 1)
    return unsent(name, steps, "RequestRejectedError").but(create=end)


STATUS = (
    fine("201", response(201)),
    final("400", said(400, "value_error"), "RequestRejectedError"),
    final("401", said(401, "not_authenticated"), "AuthenticationError"),
    final("402", said(402, "payment"), "RequestRejectedError"),
    final("403", said(403, "unauthorized"), "AuthenticationError"),
    final("403, a firewall's page", page(403), "RequestRejectedError"),
    final("403, a firewall's JSON", (response(403, b'{"message":"no"}'),), "RequestRejectedError"),
    final("403, a feature that is off", said(403, "feature_not_enabled"), "RequestRejectedError"),
    final("404", said(404, "profile_does_not_exist"), "NotFoundError").but(
        read=cell("NotFoundError", "absent", 1), delete=cell("NotFoundError", "absent", 1)
    ),
    final("400 for a missing profile", said(400, "profile_does_not_exist"), "NotFoundError").but(
        read=cell("NotFoundError", "absent", 1), delete=cell("NotFoundError", "absent", 1)
    ),
    final("404, a gateway's page", page(404), "RequestRejectedError"),
    final("404 without a body", (response(404, b""),), "RequestRejectedError"),
    final("405", page(405), "RequestRejectedError"),
    final("406", page(406), "RequestRejectedError"),
    final("407 from the server itself", page(407), "RequestRejectedError"),
    lost("408", page(408), "RequestRejectedError"),
    final("409", said(409, "conflict"), "ConflictError"),
    final("410", said(410, "gone"), "RequestRejectedError"),
    final("411", page(411), "RequestRejectedError"),
    final("412", said(412, "oops"), "RequestRejectedError"),
    final("413", page(413), "RequestRejectedError"),
    final("414", page(414), "RequestRejectedError"),
    final("415", page(415), "RequestRejectedError"),
    final("421", page(421), "RequestRejectedError"),
    final("422", said(422, "value_error"), "RequestRejectedError"),
    final("423", said(423, "locked"), "RequestRejectedError"),
    early("425", page(425)),
    final("431", page(431), "RequestRejectedError"),
    final("451", page(451), "RequestRejectedError"),
    broken("500", said(500, "internal")),
    broken("500, a page", page(500)),
    broken("500 that names a missing profile", said(500, "profile_does_not_exist")),
    failed("501", page(501)),
    broken("502", page(502)),
    broken("503", page(503)),
    unsent("503 with Retry-After", page(503, "Retry-After: 0"), "ServerError"),
    broken("504", page(504)),
    failed("505", page(505)),
    *(broken(f"{status}, Cloudflare's own", page(status)) for status in (*range(520, 528), 530)),
    broken("599", page(599)),
    failed("999", page(999)),
    final("304", (b"HTTP/1.1 304 Not Modified\r\n\r\n",), "RequestRejectedError"),
    final(
        "101",
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",),
        "RequestRejectedError",
    ),
)

_HERE = "Location: /api/v1/elsewhere/"

REDIRECT = (
    *(
        final(
            f"{status} to another host",
            (response(status, b"", "Location: https://elsewhere.example/"),),
            "RequestRejectedError",
        )
        for status in (301, 302, 303, 307, 308)
    ),
    final("300", page(300), "RequestRejectedError"),
    final("302 to the same host", (response(302, b"", _HERE),), "RequestRejectedError"),
    final("302 to itself, for ever", (response(302, b"", "Location: "),), "RequestRejectedError"),
    final("302 to nowhere", (response(302, b""),), "RequestRejectedError"),
    final(
        "302 to nonsense", (response(302, b"", "Location: http://[x y/"),), "RequestRejectedError"
    ),
)


def throttled(name: str, *lines: str) -> Fault:
    """Return a 429, with or without `Retry-After`."""
    return unsent(name, said(429, "rate_limited", *lines), "RateLimitError")


_LONG_AGO = formatdate(1e9, usegmt=True)
_LATER = formatdate(1e9 + 86400, usegmt=True)

RATE = (
    throttled("429 without Retry-After"),
    unsent("429, a page", page(429), "RateLimitError"),
    throttled("429, 0 seconds", "Retry-After: 0"),
    throttled("429, a fraction of a second", "Retry-After: 0.01"),
    throttled("429, a date in the past", f"Retry-After: {_LONG_AGO}"),
    throttled(
        "429, a date by the server's clock", f"Retry-After: {_LONG_AGO}", f"Date: {_LONG_AGO}"
    ),
    throttled("429, a word", "Retry-After: soon"),
    throttled("429, negative", "Retry-After: -5"),
    throttled("429, not a number", "Retry-After: NaN"),
    throttled("429, infinite", "Retry-After: inf"),
    throttled("429, 1e9", "Retry-After: 1e9"),
    throttled("429, empty", "Retry-After: "),
    throttled("429, 30 digits", "Retry-After: " + "9" * 30),
    throttled("429, two of them", "Retry-After: 0", "Retry-After: 0"),
    final("429, a day", said(429, "rate_limited", "Retry-After: 86400"), "RateLimitError"),
    final(
        "429, a date a day away",
        said(429, "rate_limited", f"Retry-After: {_LATER}", f"Date: {_LONG_AGO}"),
        "RateLimitError",
    ),
    final("503, a day", page(503, "Retry-After: 86400"), "ServerError"),
)
