"""The map of the package, by which a newcomer finds a function."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.module_map import ROOT, Name, module_map

NAMES = list(module_map())
MODULES = {one.path: one for one in NAMES if not one.name}
OF_RETRY = {one.name: one.purpose for one in NAMES if one.path == "adapty_async/_pipeline/retry.py"}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_every_module_says_its_job(module: Name) -> None:
    """A module begins with a sentence about its job."""
    assert module.purpose
    assert module.purpose[-1] in {".", ":"}


def test_functions_classes_and_methods_are_listed_with_the_first_sentence_about_them() -> None:
    """A function, a class and a method have a line each, with their purpose."""
    assert OF_RETRY["may_retry"].startswith("Return whether a request of this retry safety")
    assert OF_RETRY["_RetryLoop"] == "A retry loop for one call whose first attempt failed."
    assert "_RetryLoop._wait" in OF_RETRY
    assert "_RetryLoop.__init__" not in OF_RETRY


def test_constants_and_fields_are_listed_with_their_value_and_comment() -> None:
    """A constant has its value and the comment above it, a field the words of its class."""
    assert OF_RETRY["_FREE = 3"].startswith("Maximum number of 429 responses")
    assert (
        Name(
            "adapty_async/config.py",
            "RetryPolicy.attempts = 5",
            "maximum requests for one call, including the first; 1 never retries.",
        )
        in NAMES
    )


def test_a_name_without_a_docstring_has_its_arguments() -> None:
    """A function that needs no docstring is listed with what it takes."""
    plugin = {one.name: one.purpose for one in NAMES if one.path == "_adapty_async_pytest.py"}

    assert any(purpose.startswith("(") for purpose in plugin.values())


def test_no_line_is_so_long_that_a_tool_cuts_it() -> None:
    """Each line of the map is short."""
    assert max(len(str(one)) for one in NAMES) <= 320


def test_a_reader_may_close_the_pipe_early() -> None:
    """The map ends without an error if its reader, such as head, has read enough."""
    command = [sys.executable, "-m", "tests.module_map"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline().decode()
        process.stdout.close()
        errors = process.stderr.read()

    assert first == f"{NAMES[0]}\n"
    assert (process.returncode, errors) == (0, b"")
