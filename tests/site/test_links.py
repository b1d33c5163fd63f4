"""The checker of links, on small sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.links import broken_links

OTHER = '<h1 id="top">Other</h1><a name="old"></a>'


@pytest.mark.parametrize(
    "link",
    [
        pytest.param("other.html", id="page"),
        pytest.param("other.html#top", id="id"),
        pytest.param("other.html#old", id="name"),
        pytest.param("#here", id="own"),
        pytest.param("folder/%C3%BC%20b.txt", id="quoted"),
        pytest.param("https://example.com/nothing#at-all", id="foreign"),
        pytest.param("//example.com/nothing", id="foreign-scheme"),
        pytest.param("mailto:support@example.com", id="mail"),
        pytest.param("other.html?v=1", id="query"),
    ],
)
def test_a_link_with_a_target_is_accepted(link: str, tmp_path: Path) -> None:
    """A link to a file or an anchor of the site, or to another site, is no fault."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "ü b.txt").touch()
    (tmp_path / "other.html").write_text(OTHER, "utf-8")
    (tmp_path / "page.html").write_text(f'<a href="{link}">x</a><p id="here">', "utf-8")

    assert broken_links(tmp_path) == []


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        pytest.param('<a href="gone.html">x</a>', "gone.html: there is no such file", id="file"),
        pytest.param('<img src="gone.png">', "gone.png: there is no such file", id="image"),
        pytest.param(
            '<a href="../a.html#b">x</a>', "../a.html#b: there is no such anchor", id="id"
        ),
        pytest.param('<a href="#gone">x</a>', "#gone: there is no such anchor", id="own"),
    ],
)
def test_a_link_without_a_target_is_a_fault(page: str, complaint: str, tmp_path: Path) -> None:
    """A link to no file or no anchor is named with its page."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.html").write_text('<p id="a">', "utf-8")
    (tmp_path / "folder" / "page.html").write_text(page, "utf-8")

    assert broken_links(tmp_path) == [f"folder/page.html: {complaint}"]
