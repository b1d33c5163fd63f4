"""The checker of Markdown pages, on small ones and on those of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.markdown import anchors_of, broken_links, relative_links

_ROOT = Path(__file__).parents[2]
_PAGES = [
    *_ROOT.glob("*.md"),
    *(page for name in ("docs", "examples") for page in (_ROOT / name).rglob("*.md")),
]
_OTHER = "# Other page\n\n## A `run` in [two](x.md) parts\n\n## Again\n\n## Again\n"


@pytest.mark.parametrize(
    ("text", "links"),
    [
        pytest.param("See [a](b.md), [`c`](d.md#e).", ["b.md", "d.md#e"], id="sentence"),
        pytest.param("![a](b.svg)", ["b.svg"], id="image"),
        pytest.param('[a](<b.md> "title")', ["b.md"], id="title"),
        pytest.param("[a]: b.md", ["b.md"], id="reference"),
        pytest.param("[here](#part)", ["#part"], id="own heading"),
        pytest.param("[a](https://b.org/c.md) [d](//e.org) [f](mailto:g@h.i)", [], id="foreign"),
        pytest.param("`[a](b.md)` ``[`](c.md)``", [], id="code"),
        pytest.param("```python\nrows[0](x)\n```\n[a](b.md)", ["b.md"], id="block"),
    ],
)
def test_relative_links_are_found(text: str, links: list[str]) -> None:
    """A link without a host is relative, and code has none."""
    assert relative_links(text) == links


def test_headings_have_the_anchors_of_github() -> None:
    """An anchor is the heading in small letters without marks; a second one has a number."""
    assert anchors_of(_OTHER + "```sh\n# a comment\n```\n") == {
        "other-page",
        "a-run-in-two-parts",
        "again",
        "again-1",
    }


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        pytest.param("folder/other.md", "", id="file"),
        pytest.param("folder", "", id="folder"),
        pytest.param("folder/other.md#again-1", "", id="heading"),
        pytest.param("#a-page", "", id="own heading"),
        pytest.param("folder/gone.md", "there is no such file", id="no file"),
        pytest.param("folder/other.md#gone", "there is no such heading", id="no heading"),
        pytest.param("#gone", "there is no such heading", id="no own heading"),
    ],
)
def test_a_link_without_a_target_is_a_fault(tmp_path: Path, link: str, fault: str) -> None:
    """A link to no file or to no heading is named with its page."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "other.md").write_text(_OTHER, "utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\nA [link]({link}).\n", "utf-8")

    assert broken_links(tmp_path, [page]) == ([f"page.md: {link}: {fault}"] if fault else [])


def test_links_of_the_project_lead_somewhere() -> None:
    """Each relative link of the README, the examples and the documentation has its target."""
    assert len(_PAGES) >= 60
    assert broken_links(_ROOT, _PAGES) == []
