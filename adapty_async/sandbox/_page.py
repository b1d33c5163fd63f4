"""The HTML page at `/`: the content of the sandbox, and the latest requests."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._store import Arrival

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#e3e6ea, #2d333b);
        --card: light-dark(#fff, #1c2128); --dim: light-dark(#66707c, #8b949e); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem; line-height: 1.45;
       font-family: system-ui, sans-serif; background: light-dark(#f5f6f8, #14181d);
       color: light-dark(#1d2329, #dfe5eb); }
h1 { font-size: 1.35rem; margin: 0 0 1.25rem; }
h2 { font-size: .95rem; margin: 0 0 .6rem; }
.counts, .tables { display: grid; gap: 1rem; }
.counts { grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); margin-bottom: 1rem; }
.tables { grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
        padding: .9rem 1.1rem; overflow-x: auto; }
.card b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.dim, th { color: var(--dim); }
table { border-collapse: collapse; width: 100%; font-size: .82rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; white-space: nowrap; }
td { border-top: 1px solid var(--line); font-family: ui-monospace, monospace; }
.good { color: light-dark(#1a7f37, #4ac26b); }
.bad { color: light-dark(#c4320a, #ff8a65); }
"""


def render(
    state: tuple[int, int, int],
    statuses: Mapping[int, int],
    profiles: Iterable[tuple[str, str | None]],
    arrivals: Iterable[Arrival],
) -> str:
    """Return the complete page; every value in it is escaped."""
    names = ("Server-side profiles", "Mail profiles", "Mail events")
    cards = [*zip(names, state, strict=True), ("Requests", sum(statuses.values()))]
    cards += [
        (f"Status {status}" if status else "No response", n) for status, n in statuses.items()
    ]
    counts = "".join(_card(name, count) for name, count in cards)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="refresh" content="2">'
        f"<title>Adapty sandbox</title><style>{_STYLE}</style></head><body>"
        f'<h1>Adapty sandbox</h1><div class="counts">{counts}</div><div class="tables">'
        + _table("Newest profiles", ("Customer user id", "Profile id"), map(_profile, profiles))
        + _table(
            "Latest requests",
            ("#", "Time", "Request", "Identity", "Status", "Fault"),
            map(_arrival, arrivals),
        )
        + "</div></body></html>"
    )


def _card(name: str, count: int) -> str:
    return f'<div class="card"><span class="dim">{escape(name)}</span><b>{count:,}</b></div>'


def _table(title: str, columns: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(rows) or f'<tr><td class="dim" colspan="{len(columns)}">none yet</td></tr>'
    return (
        f'<section class="card"><h2>{escape(title)}</h2>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>"
    )


def _profile(ids: tuple[str, str | None]) -> str:
    profile_id, customer_user_id = (escape(one or "") for one in ids)
    return f'<tr><td>{customer_user_id}</td><td class="dim">{profile_id}</td></tr>'


def _arrival(arrival: Arrival) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(arrival.at))
    mood = "good" if arrival.applied else "bad"
    return (
        f'<tr><td class="dim">{arrival.number}</td><td class="dim">{moment}</td>'
        f"<td>{escape(arrival.method)} {escape(arrival.path)}</td>"
        f"<td>{escape(arrival.identity or '')}</td>"
        f'<td class="{mood}">{arrival.status or "-"}</td>'
        f"<td>{escape(arrival.fault or '')}</td></tr>"
    )
