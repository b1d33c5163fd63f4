"""
The guard of the page: which requests may come from the page of another site. It does no I/O.

The sandbox needs no key for its own page, so a web page that somebody visits must not reach it. A
browser names the site of a request in `Origin` and `Sec-Fetch-Site`. With DNS rebinding, a foreign
name leads to this machine, and the browser takes both for one site: `Host` has the foreign name.

Sources: https://www.w3.org/TR/fetch-metadata/, https://datatracker.ietf.org/doc/html/rfc6454
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

#: Headers of all responses of the page. Its scripts and styles are files of this origin; the
#: browser rejects any other, and any text that a script would make markup.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def objection(method: str, headers: Mapping[str, str], listens_on: str) -> str | None:
    """
    Return why a request must not be served; `None` for one of this page or of a program.

    A link on another site may open the page. If the sandbox listens on an address that others can
    reach, any `Host` is accepted.
    """
    host = headers.get("Host")
    if host is not None and _is_loopback(listens_on) and not _is_of_this_machine(host, listens_on):
        return (
            f"The sandbox listens on {listens_on}, and the host of this request is another name. "
            "Use that address, or pass the name as `host`."
        )
    opens_a_page = (method, headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == (
        "GET",
        "navigate",
        "document",
    )
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not opens_a_page:
        return "The page of another site sent this request."
    origin = headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != host:
        return "The page of another site sent this request."
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_of_this_machine(host: str, listens_on: str) -> bool:
    """Return whether a foreign name server cannot have made the browser take `host` for this."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", listens_on.lower()) or name.endswith(".localhost"):
            return True
        ip_address(name)  # no name server is asked for an address
    except ValueError:
        return False
    return True
