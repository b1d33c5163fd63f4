"""The checker of external links, on servers of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.links import check, links_of, links_of_project, verdict
from tests.ports import held_port


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Return the address of a server with a page, a redirect, a busy page and nothing else."""
    requests: list[str] = []

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="a page")

    async def moved(_: web.Request) -> web.Response:
        raise web.HTTPFound("/page")

    async def busy(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(status=503 if requests.count(request.path) < 3 else 200)

    app = web.Application()
    app.add_routes([web.get("/page", page), web.get("/moved", moved), web.get("/busy", busy)])
    async with TestServer(app) as server:
        yield str(server.make_url("/")).rstrip("/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("See https://a.org/b.", {"https://a.org/b"}, id="sentence"),
        pytest.param("[one](https://a.org/b#part), or", {"https://a.org/b"}, id="markdown"),
        pytest.param("<https://a.org/x_(y)>", {"https://a.org/x_(y)"}, id="brackets"),
        pytest.param('docs="http://a.org/?b=1",', {"http://a.org/?b=1"}, id="code"),
        pytest.param("https://api.adapty.io/api/v2/", set(), id="api"),
        pytest.param("https://api-mail.adapty.io", set(), id="mail"),
        pytest.param("http://127.0.0.1:8080 http://localhost http://host:1", set(), id="local"),
        pytest.param("https://example.com/x", set(), id="example"),
        pytest.param("http://{host}:{port}", set(), id="placeholder"),
    ],
)
def test_links_are_found_in_prose_and_code(text: str, expected: set[str]) -> None:
    """A link ends before the marks around it; addresses without a page are none."""
    assert links_of(text) == expected


def test_the_links_of_the_endpoints_are_checked() -> None:
    """Pages for readers and definitions of endpoints are searched."""
    found = links_of_project()

    assert found["https://keepachangelog.com/en/1.1.0/"] == ["CHANGELOG.md"]
    assert "https://adapty.io/docs/api-adapty/operations/getProfile" in found


def test_a_link_names_its_files(tmp_path: Path) -> None:
    """Each link is found once, with all pages that have it."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("https://a.org", encoding="utf-8")
    (tmp_path / "docs" / "page.md").write_text("https://a.org#b", encoding="utf-8")

    assert links_of_project(tmp_path) == {"https://a.org": ["README.md", "docs/page.md"]}


async def test_a_page_a_redirect_and_a_busy_server_are_fine(url: str) -> None:
    """A success is found at the end of redirects, and after a server was busy."""
    results = await check([f"{url}/page", f"{url}/moved", f"{url}/busy"], pause=0.0)

    assert verdict(results) == ([], "3 links checked, 0 broken")


async def test_a_missing_page_and_a_dead_host_are_broken(url: str) -> None:
    """A link is broken if its page is missing, or if only its host cannot be reached."""
    with held_port() as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/"
        broken, summary = verdict(await check([f"{url}/page", f"{url}/gone", dead], pause=0.0))

    assert broken[0] == f"{url}/gone: status 404"
    assert broken[1].startswith(f"{dead}: Cannot connect to host")
    assert summary == "3 links checked, 2 broken"


async def test_no_network_is_said() -> None:
    """Nothing is broken if no host can be reached, and the verdict says so."""
    with held_port() as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/"
        broken, summary = verdict(await check([dead]))

    assert not broken
    assert summary == "NOT checked: none of the hosts of 1 links can be reached"
