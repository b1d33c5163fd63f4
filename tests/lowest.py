"""
An installer of the oldest release of each dependency that pyproject.toml allows.

`tox -e lowest` runs it before the tests. Transitive dependencies are not changed.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path


def lowest(requirements: list[str]) -> list[str]:
    """Return the requirements with each lower bound as the exact version."""
    return [requirement.replace(">=", "==") for requirement in requirements]


def main() -> None:
    """Install the oldest releases."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = [each for extra, needed in extras.items() if extra != "all" for each in needed]
    wanted = lowest([*project["dependencies"], *optional])
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)


if __name__ == "__main__":
    main()
