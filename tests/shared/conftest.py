"""Fixtures of the tests of shared rates."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_patience() -> None:
    """Leave the adaptive rate limiter as it is: its timing is part of what is tested."""
