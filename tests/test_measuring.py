"""Which tests are measured for coverage."""

from __future__ import annotations

import os
import sys

import pytest
from coverage import Coverage

needs_coverage = pytest.mark.skipif(
    Coverage.current() is None, reason="coverage is not measured in this run"
)


@needs_coverage
def test_a_test_and_its_processes_are_measured() -> None:
    """Coverage traces a test, and the environment makes it trace its processes."""
    assert sys.gettrace() is not None
    assert "COVERAGE_PROCESS_CONFIG" in os.environ


@needs_coverage
@pytest.mark.unmeasured
def test_an_unmeasured_test_and_its_processes_are_not() -> None:
    """Coverage traces neither a test with the marker nor its processes."""
    assert sys.gettrace() is None
    assert "COVERAGE_PROCESS_CONFIG" not in os.environ


@needs_coverage
def test_the_next_test_is_measured_again() -> None:
    """Coverage resumes after a test with the marker."""
    assert sys.gettrace() is not None
    assert "COVERAGE_PROCESS_CONFIG" in os.environ
