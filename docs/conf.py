"""How Sphinx builds the documentation, and how the picture of the packages is drawn."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from adapty_async import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "adapty-async"
author = "The adapty-async maintainers"
project_copyright = "2026, The adapty-async maintainers"
release = __version__
sys.path.insert(0, str(Path(__file__).parent))  # for the extension of our own
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "references",
]
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r"/.*"),  # a path of a server
    ("py:.*", r"(?:\w+\.)*_[\w.]+"),  # a private name, such as that of a type variable
    ("py:.*", r"(?:prometheus_client|starlette)\..*"),  # their documentation has no inventory
]
html_theme = "furo"
html_title = "adapty-async"
pygments_dark_style = "github-dark"  # the theme's own underlines modules, like links
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
exclude_patterns = ["_build"]
autoclass_content = "both"  # the docstring of __init__ describes the arguments
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
# The inventories are lists of our own with the few names that this documentation refers to: a build
# needs no network.
intersphinx_mapping = {
    name: (site, f"inventories/{name}.inv")
    for name, site in {
        "aiohttp": "https://docs.aiohttp.org/en/stable/",
        "msgspec": "https://jcristharif.com/msgspec/",
        "opentelemetry": "https://opentelemetry-python.readthedocs.io/en/stable/",
        "polars": "https://docs.pola.rs/api/python/stable/",
        "pyarrow": "https://arrow.apache.org/docs/python/",
        "pytest": "https://docs.pytest.org/en/stable/",
        "python": "https://docs.python.org/3/",
    }.items()
}
napoleon_google_docstring = True
napoleon_use_ivar = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

_ROOT = Path(__file__).parent.parent
_PACKAGE = _ROOT / "adapty_async"


def values() -> set[str]:
    """Return the names of arguments and fields, which docstrings have in single backticks."""
    trees = (ast.parse(path.read_text("utf-8")) for path in _PACKAGE.rglob("*.py"))
    found = [node for tree in trees for node in ast.walk(tree)]
    arguments = {node.arg for node in found if isinstance(node, ast.arg)}
    fields = (node.target for node in found if isinstance(node, ast.AnnAssign))
    return arguments | {field.id for field in fields if isinstance(field, ast.Name)}


nitpick_ignore = [("py:obj", name) for name in sorted(values())]

_SVG = "http://www.w3.org/2000/svg"
_PICTURE = _ROOT / "docs" / "_static" / "architecture.svg"

# Pixels of the picture. Colours follow the text, so that light and dark pages can have it; a page
# that shows it as an image has no colour to follow, and `svg:root` sets one.
_WIDTH, _ROW, _BOX, _GAP = 780, 58, 34, 10
_STYLE = (
    "svg:root{color:#1f2328}"
    "@media(prefers-color-scheme:dark){svg:root{color:#e6edf3}}"
    ".packages text{font:13px ui-monospace,monospace;fill:currentColor;text-anchor:middle}"
    ".packages rect{fill:currentColor;fill-opacity:.07;stroke:currentColor;stroke-opacity:.5}"
    ".packages path{stroke:currentColor;fill:none}"
)


def layers() -> list[list[str]]:
    """Return the packages as `tests/test_layers.py` lists them: each imports only earlier ones."""
    tree = ast.parse((_ROOT / "tests" / "test_layers.py").read_text("utf-8"))
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES"
    )
    return [line.split() for line in ast.literal_eval(table)]


def purpose_of(package: str) -> str:
    """Return the first sentence of the docstring of a package or module."""
    path = _PACKAGE if package == "adapty_async" else _PACKAGE / package
    inside = path / "__init__.py"
    path = inside if inside.exists() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return re.split(r"(?<=\.)\s|\n\n", docstring, maxsplit=1)[0].replace("\n", " ")


def draw(table: list[list[str]]) -> str:
    """Return the picture: a row for each line of the table, the entry points on top."""
    height = len(table) * _ROW - (_ROW - _BOX) + 2
    label = "Each package imports only packages below it"
    size = f'viewBox="0 0 {_WIDTH} {height}" width="100%"'
    parts = [
        f'<svg xmlns="{_SVG}" class="packages" role="img" aria-label="{label}" {size}>',
        f"<style>{_STYLE}</style>",
    ]
    for number, row in enumerate(reversed(table)):
        top, width = number * _ROW + 1, (_WIDTH - 2 - _GAP * (len(row) - 1)) / len(row)
        for place, package in enumerate(row):
            left = 1 + place * (width + _GAP)
            parts.append(
                f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{_BOX}" rx="5"/>'
                f'<text x="{left + width / 2:g}" y="{top + 22}">{package}</text>'
            )
        if number < len(table) - 1:
            parts.append(
                f'<path d="M{_WIDTH // 2} {top + _BOX + 4}v14m-4 -5l4 5l4 -5"/>'  # an arrow down
            )

    return "\n".join([*parts, "</svg>", ""])


def _draw(_: Sphinx) -> None:
    picture = draw(layers())
    if not _PICTURE.exists() or _PICTURE.read_text("utf-8") != picture:
        _PICTURE.write_text(picture, "utf-8")


def operations() -> str:
    """Return the table of all operations, which the contract tests build."""
    sys.path.insert(0, str(_ROOT))
    from tests.contract.operations import table  # noqa: PLC0415 - the root is no package

    return table()


def _fill(_: Sphinx, page: str, source: list[str]) -> None:
    if page == "operations":
        source[0] = source[0].replace("<!-- operations -->", operations())
    if page == "architecture":
        rows = [f"| `{name}` | {purpose_of(name)} |" for row in layers() for name in row]
        source[0] = source[0].replace("<!-- packages -->", "\n".join(reversed(rows)))


def _breakable(name: re.Match[str]) -> str:
    """Let a name in the text break after a dot or between its words, as narrow tables need it."""
    return re.sub(r"(?<=\w)[._=(/](?=\w)", r"\g<0><wbr>", name[0])


# Mends of the pages for people who use a keyboard, a screen reader (as axe asks for them) or a
# telephone, and of what autodoc says of a class without a public base: patterns of HTML and their
# replacements, which match none of the patterns.
_MENDS: dict[str, str | Callable[[re.Match[str]], str]] = {
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<aside class="toc-drawer">': '<aside class="toc-drawer" aria-label="On this page">',
    'class="caption" role="heading">': 'class="caption" role="heading" aria-level="2">',
    '<div class="highlight"><pre>': '<div class="highlight"><pre tabindex="0">',  # it may scroll
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',  # so may this
    r'<th class="head[^"]*"><p></p></th>': "<td></td>",  # an empty cell is no header
    r'<span class="pre">(--[^<]*)</span>': r'<span class="option">\1</span>',
    r'<span class="pre">[^<]*</span>': _breakable,
    r"<p>Bases:(?: <a [^>]*#object[^>]*><code[^>]*><span[^>]*>object</span></code></a>)?</p>": "",
    '<div id="search-results">': '<h1>Search</h1>\n<div class="results" id="search-results">',
}


def _mend(app: Sphinx, error: Exception | None) -> None:
    for page in () if error else Path(app.outdir).rglob("*.html"):
        text = mended = page.read_text("utf-8")
        for pattern, replacement in _MENDS.items():
            mended = re.sub(pattern, replacement, mended)
        if mended != text:
            page.write_text(mended, "utf-8")


def setup(app: Sphinx) -> None:
    """Draw the picture, fill the tables and mend the pages whenever the documentation is built."""
    app.connect("builder-inited", _draw)
    app.connect("source-read", _fill)
    app.connect("build-finished", _mend)
