"""
The page of guarantees, sentence by sentence.
"""

from __future__ import annotations

import re
from pathlib import Path

_TESTS = Path(__file__).parent
_PAGE = _TESTS.parent / "docs" / "guarantees.md"


def test_each_promise_names_tests_that_exist() -> None:
    """
    Behind every promise stands at least one test, under its name.
    """
    promised, _, _ = _PAGE.read_text(encoding="utf-8").partition("## What is not promised")
    sentences = re.findall(r"^- .*$", promised, re.MULTILINE)
    sources = "\n".join(path.read_text(encoding="utf-8") for path in _TESTS.rglob("test_*.py"))
    known = set(re.findall(r"def (test_\w+)\(", sources))

    assert len(sentences) > 15
    for sentence in sentences:
        named = re.findall(r"`(test_\w+)`", sentence)
        assert named, sentence
        assert set(named) <= known, sentence
