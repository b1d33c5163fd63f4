"""The warm interpreter, which must not differ from a new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.warm import run_warm

pytestmark = pytest.mark.unmeasured  # the server would be, and all its forks

FACTS = """
import os, sys, warnings
from dataclasses import dataclass

@dataclass
class Mine:
    one: int

print(__name__, sys.modules[Mine.__module__].Mine is Mine, sys.argv, repr(sys.path[0]))
print(os.getcwd(), os.environ["ADAPTY_X"], "left" in globals(), file=sys.stderr)
left = True
"""


async def test_a_program_has_its_own_main_folder_and_environment(tmp_path: Path) -> None:
    """A program sees its own module, folder and environment, and nothing of the one before."""
    for value in ("one", "two"):
        status, output = await run_warm(FACTS, {"ADAPTY_X": value}, tmp_path)

        assert (status, sorted(output.splitlines())) == (
            0,
            [f"{tmp_path} {value} False", "__main__ True ['-c'] ''"],
        )
    assert "ADAPTY_X" not in os.environ


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        pytest.param("import sys; sys.exit(3)", 3, "", id="exit"),
        pytest.param("import warnings; warnings.warn('odd')", 1, "UserWarning: odd", id="warning"),
        pytest.param("print(1 / 0)", 1, "ZeroDivisionError", id="error"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -9, "", id="killed"),
        pytest.param("print(1)\nprint(f'", 1, "SyntaxError", id="syntax"),
    ],
)
async def test_a_program_that_fails_says_so(
    code: str, status: int, expected: str, tmp_path: Path
) -> None:
    """A program's exit code and its traceback are returned."""
    ended, output = await run_warm(code, {}, tmp_path)

    assert ended == status
    assert expected in output
