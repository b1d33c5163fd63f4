"""The pages of guarantees and their tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_PAGES = (_TESTS.parent / "docs" / "guarantees.md", _TESTS.parent / "SECURITY.md")
_UNTESTED = ("- No configuration file is read",)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_each_promise_names_tests_that_exist(page: Path) -> None:
    """Every guarantee names at least one existing test."""
    promised, _, _ = page.read_text(encoding="utf-8").partition("## Limits of these guarantees")
    sentences = re.findall(r"^- .*$", promised, re.MULTILINE)
    sources = "\n".join(path.read_text(encoding="utf-8") for path in _TESTS.rglob("test_*.py"))
    known = set(re.findall(r"def (test_\w+)\(", sources))

    assert len(sentences) > 15
    for sentence in sentences:
        named = re.findall(r"`(test_\w+)`", sentence)
        assert named or sentence.startswith(_UNTESTED), sentence
        assert set(named) <= known, sentence
