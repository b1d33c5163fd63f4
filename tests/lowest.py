"""
Put the oldest release of each dependency in place that pyproject.toml allows.

`tox -e lowest` does, and then runs the tests. What the dependencies themselves need is left as it
is: it is theirs to say.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path


def lowest(requirements: list[str]) -> list[str]:
    """Turn each lower bound into the only version that will do."""
    return [requirement.replace(">=", "==") for requirement in requirements]


def main() -> None:
    """Install them."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = lowest([*project["dependencies"], *(each for extra in extras for each in extra)])
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)


if __name__ == "__main__":
    main()
