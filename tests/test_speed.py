"""The page about speed and its plots match the recorded results."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import aiohttp
import msgspec
import pytest

from adapty_async.mail import SAVE_PROFILE
from benchmarks import _page
from benchmarks._limit_models import LimitSettings, Rates
from benchmarks._limited_server import PATH, Record, ServerSettings, start
from benchmarks._ours import mail_profile
from benchmarks._plot import Bars, drawn
from benchmarks._results import FOLDER
from benchmarks._samples import mail_fields


def test_the_page_says_what_is_recorded() -> None:
    """The tables on the page are generated from the recorded results."""
    page = _page.PAGE.read_text("utf-8")

    assert _page.written(page) == page


@pytest.mark.parametrize("name", ["overhead.svg", "peers.svg"])
def test_a_plot_shows_what_is_recorded(name: str) -> None:
    """Each plot is generated from the recorded results."""
    assert (FOLDER / name).read_text("utf-8") == _page.plots()[name]


def test_a_plot_has_a_bar_for_each_number() -> None:
    """Bars are as long as their numbers, the longest fills the width, and names are quoted."""
    bars = Bars(title="a < b", series=("x",), values={"p & q": [1.0], "r": [4.0]}, form="{:g}")
    drawing = ET.fromstring(drawn(bars))
    texts = [each.text for each in drawing if each.tag.endswith("text")]
    widths = [float(each.get("width", "")) for each in drawing if each.tag.endswith("rect")]

    assert texts == ["a < b", "x", "p & q", "1", "r", "4"]
    assert widths[-1] == 4 * widths[-2]


def test_both_sides_save_the_same_profile() -> None:
    """The profile saved by hand and the one saved by the library are the same JSON."""
    assert msgspec.json.decode(SAVE_PROFILE.encode(mail_profile("u1"))) == mail_fields("u1")


async def test_the_server_in_python_responds_to_other_requests() -> None:
    """Without nginx, reads get a profile and saves a success, and both are counted."""
    settings = ServerSettings(
        items=1,
        limit=LimitSettings(rates=Rates(((0.0, 1e9),)), burst=1e9),
        latency=0.0,
        retry_after=None,
        seed=1,
    )
    async with await start(settings) as server:
        host, port = server.sockets[0].getsockname()
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            for path in (PATH, "/api/v2/server-side-api/profile/"):
                async with session.get(path) as answer:
                    profile = await answer.json()
                    assert profile["data"]["customer_user_id"] == "user_1"
            async with session.post("/api/v1/profile/save/", json={}) as answer:
                assert (answer.status, await answer.json()) == (200, {"data": None})
            async with session.get("/") as answer:
                record = msgspec.json.decode(await answer.read(), type=Record)

    assert (record.others, record.arrivals) == (3, 0)


def test_jobs_of_others_do_not_import_the_library() -> None:
    """The process of another client has the memory of a program without the library."""
    code = (
        "import sys; from benchmarks._jobs import job_named; job_named('raw delete'); "
        "print('adapty_async' in sys.modules); job_named('bulk_delete'); "
        "print('adapty_async' in sys.modules)"
    )

    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout

    assert output.split() == [b"False", b"True"]
