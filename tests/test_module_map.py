"""The map of modules, by which a newcomer finds a function."""

from __future__ import annotations

from tests.module_map import module_map


def test_every_module_says_its_job_and_what_it_defines() -> None:
    """Each line has a path, a sentence, and the names of functions, classes and methods."""
    lines = dict(line.split(": ", 1) for line in module_map())

    assert [path for path, rest in lines.items() if not rest] == []
    retry = lines["adapty_async/_pipeline/retry.py"]
    assert "may_retry" in retry
    assert "_RetryLoop (" in retry
