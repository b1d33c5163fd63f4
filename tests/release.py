"""
A check of a release: it builds the packages, installs them and tests what a user gets.

`make release-check` runs all steps on each supported Python of this machine, `--quick` leaves out
what takes minutes. It prints what it did and what it skipped. The packages stay in dist/, the
software bill of materials (SBOM) in build/sbom/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests import links
from tests.site.markdown import relative_links

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
SBOM = ROOT / "build" / "sbom" / "adapty-async.cdx.json"

#: Tests that read files of the project: without one of them in the sdist, they fail.
TESTS_OF_FILES = (
    "tests/contract/test_documents.py",
    "tests/contract/test_operations.py",
    "tests/test_contributing.py",
    "tests/test_guarantees.py",
    "tests/test_layers.py",
    "tests/test_surface.py",
    "tests/test_terms.py",
    "tests/test_walk.py",
)

_HERE = ".".join(map(str, sys.version_info[:2]))
_T = TypeVar("_T")

# What only the required dependencies have to do: a call, and a bulk run.
_SMOKE = """
import asyncio
import adapty_async
from adapty_async.sandbox import Sandbox

async def main():
    async with Sandbox() as sandbox, adapty_async.AdaptyClient(
        sandbox.api_key, base_url=sandbox.url
    ) as adapty:
        await adapty.v2.profiles.get_or_create(customer_user_id="jane")
        report = await adapty.v2.profiles.bulk_delete(["jane"], by="customer_user_id")
    assert report.done == 1, report

asyncio.run(main())
print(adapty_async.__version__)
"""


class ReleaseError(Exception):
    """A step of the check failed; its text says which and why."""


@dataclass
class Check:
    """The state of a check: its options, folder and Pythons, and the lines of the summary."""

    work: Path
    tag: str | None = None
    is_quick: bool = False
    requires_all: bool = False
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    pythons: dict[str, Path] = field(default_factory=dict)

    @property
    def wheel(self) -> Path:
        """Return the path of the built wheel."""
        return _only(DIST.glob("*.whl"))

    @property
    def sdist(self) -> Path:
        """Return the path of the built sdist."""
        return _only(DIST.glob("*.tar.gz"))

    @property
    def source(self) -> Path:
        """Return the folder of the unpacked sdist."""
        return self.work / self.sdist.name.removesuffix(".tar.gz")


def supported(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Return the versions of Python that the package's classifiers name."""
    classifiers = tomllib.loads(pyproject.read_text("utf-8"))["project"]["classifiers"]
    found = (
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one) for one in classifiers
    )
    return [match[1] for match in found if match]


def interpreter(version: str) -> Path | None:
    """Return a Python of this version: the running one, one on the PATH, or one of pyenv."""
    candidates = [sys.executable, shutil.which(f"python{version}")]
    if shutil.which("pyenv"):
        folder = Path(_output("pyenv", "root").strip()) / "versions"
        candidates += map(str, sorted(folder.glob(f"{version}.*/bin/python")))
    return next((Path(one) for one in candidates if one and _version_of(one) == version), None)


def is_in_changelog(version: str, changelog: str) -> bool:
    """Return whether the changelog's first release is this version, with its date."""
    releases = re.findall(r"^## \[(\d[^\]]*)\](.*)$", changelog, re.MULTILINE)
    return (
        bool(releases)
        and releases[0][0] == version
        and bool(re.fullmatch(r" - \d{4}-\d\d-\d\d", releases[0][1]))
    )


def check_version(check: Check) -> None:
    """Compare the version with the changelog and the tag."""
    version = _project_version()
    if not is_in_changelog(version, (ROOT / "CHANGELOG.md").read_text("utf-8")):
        raise ReleaseError(f"CHANGELOG.md: the first release must be `## [{version}] - date`")
    if check.tag is None:
        check.skipped.append("the tag, since --tag names none")
    elif check.tag != f"v{version}":
        raise ReleaseError(f"--tag: must be v{version}, as adapty_async/_version.py has it")
    check.done.append(f"version {version} is the changelog's")


def build(check: Check) -> None:
    """Build the sdist, and the wheel from it."""
    shutil.rmtree(DIST, ignore_errors=True)
    _python("-m", "build", "--outdir", str(DIST), str(ROOT))
    with tarfile.open(check.sdist) as archive:
        archive.extractall(check.work, filter="data")
    check.done.append(f"{check.sdist.name} and {check.wheel.name} are in dist/")


def check_metadata(check: Check) -> None:
    """Check the metadata of both packages as PyPI does, and the files of the wheel."""
    _python("-m", "twine", "check", "--strict", str(check.sdist), str(check.wheel))
    _python("-m", "check_wheel_contents", str(check.wheel))
    check.done.append("twine and check-wheel-contents find no fault in the metadata")
    require_absolute_links(check.wheel)
    check.done.append("each link of the description, which PyPI shows, names its host")
    if "urls" not in _project():
        check.skipped.append("links to the project, since pyproject.toml has no [project.urls]")


def require_absolute_links(wheel: Path) -> None:
    """
    Read the description in a wheel.

    Raises:
        ReleaseError: the description has a link that leads somewhere in the repository alone.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = _only(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    links = relative_links(metadata.partition("\n\n")[2])
    if links:
        raise ReleaseError(f"the description has links without a host: {', '.join(links)}")


def check_files(check: Check) -> None:
    """Compare the packages with the files of the repository."""
    if not (ROOT / ".git").exists():
        check.skipped.append("the lists of files, since this is no repository")
        return
    tracked = set(_output("git", "-C", str(ROOT), "ls-files").splitlines())
    packed = {path.relative_to(check.source).as_posix() for path in _files(check.source)}
    _compare("sdist", packed - {"PKG-INFO"}, tracked)
    with zipfile.ZipFile(check.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    _compare("wheel", names, set(of_wheel(tracked)))
    check.done.append(f"the sdist has the repository's {len(tracked)} files, the wheel the package")


def of_wheel(names: Iterable[str], pyproject: Path = ROOT / "pyproject.toml") -> Iterator[str]:
    """Return the names of files that the packages and modules of the wheel have."""
    targets = tomllib.loads(pyproject.read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    packages: list[str] = targets["wheel"]["packages"]
    return (
        name for name in names if any(name == one or name.startswith(f"{one}/") for one in packages)
    )


def find_interpreters(check: Check) -> None:
    """Find the Pythons to install the packages on: with --quick the running one alone."""
    for version in supported():
        if check.is_quick and version != _HERE:
            check.skipped.append(f"Python {version}, since --quick leaves it out")
        elif python := interpreter(version):
            check.pythons[version] = python
        elif check.requires_all:
            raise ReleaseError(f"--require-all: Python {version} is not on this machine")
        else:
            check.skipped.append(f"Python {version}, which is not on this machine")


def check_installs(check: Check) -> None:
    """Install each package in clean environments of each Python, and use it there."""
    for version, python in check.pythons.items():
        wheel = _environment(check, python, f"wheel-{version}", str(check.wheel))
        _expect_version(_output(wheel, "-I", "-W", "error", "-c", _SMOKE))
        sdist = _environment(check, python, f"sdist-{version}", f"{check.sdist}[cli]")
        _expect_version(_output(sdist, "-I", "-m", "adapty_async.cli", "--version").split()[-1])
        check.done.append(f"Python {version}: wheel and sdist are installed, checked and used")


def run_tests(check: Check) -> None:
    """Run the tests of the unpacked sdist: all of them once, those not slow on other Pythons."""
    if check.is_quick:
        # the environment of the tests is this one; the sdist goes before it
        where = {"PYTHONPATH": str(check.source)}
        _python("-m", "pytest", "-q", *TESTS_OF_FILES, cwd=check.source, environment=where)
        check.done.append("the sdist's tests that read files of the project pass")
        check.skipped.append("the sdist's other tests, since --quick leaves them out")
        return
    group = f"{check.source / 'pyproject.toml'}:tests"
    for version, python in check.pythons.items():
        wanted = (f"{check.sdist}[all]", "--group", group)
        test = _environment(check, python, f"tests-{version}", *wanted)
        side_by_side = ("-n", "auto", "--dist", "loadfile")
        chosen = [] if version == _HERE else ["-m", "not slow"]
        _run(test, "-m", "pytest", "-q", *side_by_side, *chosen, cwd=check.source)
        which = "not slow" if chosen else "there"
        check.done.append(f"Python {version}: all tests of the sdist that are {which} pass")


def make_sbom(check: Check) -> None:
    """Write the CycloneDX document of the dependencies that an installation without extras has."""
    here = Path(sys.executable)
    python = _environment(check, here, "sbom", str(check.wheel))
    SBOM.parent.mkdir(parents=True, exist_ok=True)
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library"]
    options += ["--output-reproducible", "--spec-version", "1.6", "--output-file", str(SBOM)]
    _python("-m", "cyclonedx_py", "environment", *options, python)
    text = complete_sbom(SBOM.read_text("utf-8"), _project_version(), _requirements())
    SBOM.write_text(text, "utf-8")
    count = len(json.loads(text)["components"])
    check.done.append(
        f"{SBOM.relative_to(ROOT)} has {count} components, and is valid CycloneDX 1.6"
    )


def complete_sbom(text: str, version: str, required: set[str]) -> str:
    """
    Return a document with the version of the package itself, which is dynamic in pyproject.toml.

    Raises:
        ReleaseError: a required dependency is not in the document, or the document is not valid.
    """
    # only the group "release" has it
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = json.loads(text)
    document["metadata"]["component"] |= {
        "version": version,
        "purl": f"pkg:pypi/adapty-async@{version}",
    }
    missing = required - {component["name"] for component in document["components"]}
    if missing:
        raise ReleaseError(f"the SBOM has no {', '.join(sorted(missing))}")
    completed = json.dumps(document, indent=2, sort_keys=True) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(completed)
    if fault is not None:
        raise ReleaseError(f"the SBOM is not valid CycloneDX: {fault}")
    return completed


def check_links(check: Check) -> None:
    """Check the external links, if there is a network."""
    if check.is_quick:
        check.skipped.append("the external links, since --quick leaves them out")
        return
    broken, summary = links.verdict(asyncio.run(links.check(links.links_of_project())))
    if broken:
        raise ReleaseError("\n".join(["broken links:", *broken]))
    (check.skipped if "NOT" in summary else check.done).append(f"external links: {summary}")


STEPS = (
    check_version,
    find_interpreters,
    build,
    check_metadata,
    check_files,
    check_installs,
    make_sbom,
    check_links,
    run_tests,
)


def main(arguments: list[str]) -> int:
    """Run all steps, print the summary, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--tag", help="the release's tag, which must be v and the version")
    parser.add_argument(
        "--require-all", action="store_true", help="fail if a supported Python is not there"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="adapty-release-") as folder:
        check = Check(Path(folder), options.tag, options.quick, options.require_all)
        for step in STEPS:
            print(f"== {step.__name__.replace('_', ' ')}", flush=True)
            try:
                step(check)
            except (ReleaseError, subprocess.CalledProcessError) as error:
                print(f"release-check failed: {error}")
                return 1
    print("\n".join(["", *(f"done: {one}" for one in check.done)]))
    print("\n".join(f"SKIPPED: {one}" for one in check.skipped))
    return 0


def _environment(check: Check, python: Path, name: str, *wanted: str) -> str:
    """Make a clean environment, install what is wanted, check it, and return its Python."""
    folder = check.work / name
    _run(str(python), "-m", "venv", "--without-pip", str(folder))
    made = str(folder / "bin" / "python")
    pip = ("-m", "pip", "--python", made, "--disable-pip-version-check")
    _python(*pip, "install", "--quiet", *wanted)
    _python(*pip, "check")
    return made


def _expect_version(output: str) -> None:
    if output.strip() != _project_version():
        raise ReleaseError(f"an installed package has version {output.strip()}")


def _compare(package: str, packed: set[str], expected: set[str]) -> None:
    if packed != expected:
        more, fewer = sorted(packed - expected), sorted(expected - packed)
        raise ReleaseError(f"the {package} has {more} in addition, and lacks {fewer}")


def _project_version() -> str:
    text = (ROOT / "adapty_async" / "_version.py").read_text("utf-8")
    return text.split('__version__ = "')[1].split('"')[0]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def _requirements() -> set[str]:
    return {re.split(r"[^\w-]", one)[0] for one in _project()["dependencies"]}


def _version_of(python: str) -> str | None:
    """Return the version of a Python; None if it is only a placeholder, as pyenv makes them."""
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None


def _python(*arguments: str, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    _run(sys.executable, *arguments, cwd=cwd, environment=environment)


def _run(*command: str, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd, env=os.environ | (environment or {}))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _only(found: Iterable[_T]) -> _T:
    (one,) = found
    return one


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
