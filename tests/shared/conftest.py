"""Fixtures of the tests of shared rates."""

from __future__ import annotations

import uuid

import pytest


@pytest.fixture(autouse=True)
def no_patience() -> None:
    """Leave the adaptive rate limiter as it is: its timing is part of what is tested."""


@pytest.fixture
def key() -> str:
    """Return a key that no other test uses."""
    return f"adapty:rate:test:{uuid.uuid4().hex}"
