"""The checker of the inventory, on a small one."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from tests.site.inventory import missing_arguments, missing_names, names_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a site whose inventory has one class and a label of the same name as another."""
    lines = (
        b"adapty_async.AdaptyClient py:class -1 api/client.html#x -\n"
        b"adapty_async.Limits std:label -1 limits.html#limits Limits of a client\n"
    )
    header = b"# Sphinx inventory version 2\n# Project: p\n# Version: 1\n# zlib\n"
    (tmp_path / "objects.inv").write_bytes(header + zlib.compress(lines))
    return tmp_path


def test_names_of_an_inventory_are_those_of_python(folder: Path) -> None:
    """A label of a page is no name of Python."""
    assert names_in(folder) == {"adapty_async.AdaptyClient"}


def test_a_public_name_that_is_missing_is_found(folder: Path) -> None:
    """Each name of a public module that the inventory lacks is listed, private ones are not."""
    missing = missing_names(folder)

    assert {"adapty_async.Limits", "adapty_async.v2.Profile"} <= set(missing)
    assert "adapty_async.AdaptyClient" not in missing
    assert not any("._" in name for name in missing)


def test_an_argument_of_a_class_that_its_page_does_not_describe_is_found(folder: Path) -> None:
    """Arguments are looked for in the description of their own class."""
    (folder / "api").mkdir()
    (folder / "api" / "client.html").write_text(
        '<dl class="py class"><dt id="adapty_async.client.AdaptyClient"><strong>api_key</strong>'
        '<dl class="py class"><dt id="adapty_async.client.Other"><strong>timeout</strong>'
    )
    missing = missing_arguments(folder)

    assert "adapty_async.client.AdaptyClient: timeout" in missing
    assert "adapty_async.client.AdaptyClient: api_key" not in missing
