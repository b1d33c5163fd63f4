"""The map of modules, by which a newcomer finds a function."""

from __future__ import annotations

import pytest

from tests.module_map import Module, module_map

MODULES = {module.path: module for module in module_map()}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_every_module_says_its_job(module: Module) -> None:
    """A module begins with a sentence about its job."""
    assert module.job
    assert module.job[-1] in {".", ":"}


def test_a_module_is_listed_with_what_it_defines() -> None:
    """Functions, classes and their methods are named."""
    retry = MODULES["adapty_async/_pipeline/retry.py"]

    assert "may_retry" in retry.names
    assert [name for name in retry.names if name.startswith("_RetryLoop (")]
