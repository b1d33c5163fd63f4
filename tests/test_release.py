"""The parts of the check of a release that need no build."""

from __future__ import annotations

import os
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from adapty_async import __version__
from tests import release

_HERE = ".".join(map(str, sys.version_info[:2]))
# The ends of the paths of a module and of a package.
_ENDS = (".py", "/__init__.py")


def a_changelog(*headings: str) -> str:
    """Return a changelog with these headings of releases."""
    return "\n\n".join(["# Changelog", *(f"## {heading}\n\n- A line." for heading in headings)])


@pytest.mark.parametrize(
    ("headings", "expected"),
    [
        pytest.param(["[0.2.0] - 2026-11-29"], True, id="released"),
        pytest.param(["[Unreleased]", "[0.2.0] - 2026-11-29"], True, id="with unreleased lines"),
        pytest.param(["[0.2.0]"], False, id="no date"),
        pytest.param(["[0.2.0] - unreleased"], False, id="another date"),
        pytest.param(["[0.3.0] - 2026-12-01", "[0.2.0] - 2026-11-29"], False, id="not the first"),
        pytest.param(["[Unreleased]"], False, id="no release"),
    ],
)
def test_the_version_is_the_first_release_of_the_changelog(
    headings: list[str], *, expected: bool
) -> None:
    """The changelog's first release must be the version, with its date."""
    assert release.is_in_changelog("0.2.0", a_changelog(*headings)) is expected


@pytest.mark.parametrize(
    ("tag", "skipped"),
    [
        pytest.param(f"v{__version__}", [], id="tag"),
        pytest.param(None, ["the tag, since --tag names none"], id="no tag"),
    ],
)
def test_this_version_is_ready(tmp_path: Path, tag: str | None, skipped: list[str]) -> None:
    """The changelog describes the version that the package has."""
    check = release.Check(tmp_path, tag=tag)
    release.check_version(check)

    assert check.skipped == skipped
    assert check.done == [f"version {__version__} is the changelog's"]


def test_a_tag_of_another_version_is_rejected(tmp_path: Path) -> None:
    """A tag that is not the version ends the check before anything is built."""
    with pytest.raises(release.ReleaseError, match=f"--tag: must be v{__version__}"):
        release.check_version(release.Check(tmp_path, tag="v9.9.9"))


def test_the_supported_versions_are_those_of_the_classifiers() -> None:
    """Every version from the lowest that installs to the newest classifier is checked."""
    versions = release.supported()
    project = tomllib.loads((release.ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert f">={versions[0]}" == project["requires-python"]
    assert versions == [f"3.{minor}" for minor in range(11, 11 + len(versions))]


def test_interpreters_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running Python, one on the PATH and one of pyenv are found, a placeholder is not."""
    versions = {"3.97": "bin/python3.97", "3.98": "pyenv/versions/3.98.1/bin/python"}
    for version, path in versions.items():
        _script(tmp_path / path, f"echo {version}")
    _script(tmp_path / "bin/python3.98", "echo not installed; exit 127")
    _script(tmp_path / "bin/pyenv", f"echo {tmp_path}/pyenv")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    assert release.interpreter(_HERE) == Path(sys.executable)
    assert {one: release.interpreter(one) for one in [*versions, "3.99"]} == {
        **{version: tmp_path / path for version, path in versions.items()},
        "3.99": None,
    }


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that is left out or missing is in the summary, or an error if all are required."""
    monkeypatch.setattr(release, "supported", lambda: ["3.99", _HERE])
    usual, quick = release.Check(tmp_path), release.Check(tmp_path, is_quick=True)
    for check in (usual, quick):
        release.find_interpreters(check)

    assert usual.skipped == ["Python 3.99, which is not on this machine"]
    assert quick.skipped == ["Python 3.99, since --quick leaves it out"]
    assert usual.pythons == quick.pythons == {_HERE: Path(sys.executable)}
    with pytest.raises(release.ReleaseError, match=r"--require-all: Python 3\.99 is not"):
        release.find_interpreters(release.Check(tmp_path, requires_all=True))


def test_the_packages_have_the_files_of_the_repository() -> None:
    """A file too many or too few in a package ends the check."""
    release._compare("sdist", {"a", "b"}, {"b", "a"})
    with pytest.raises(release.ReleaseError, match=r"sdist has \['c'\] in addition.*\['b'\]"):
        release._compare("sdist", {"a", "c"}, {"a", "b"})


def test_the_wheel_has_the_packages_and_modules_of_the_project() -> None:
    """The wheel has each file of its packages, the modules outside of them, and no others."""
    packed = {"_adapty_async_cli.py", "_adapty_async_pytest.py"}
    packed |= {"adapty_async/__init__.py", "adapty_async/sandbox/a.html"}
    others = {"README.md", "adapty_async_other/a.py", "examples/adapty_async/a.py", "tests/a.py"}

    assert set(release.of_wheel(packed | others)) == packed


def test_a_description_with_links_to_other_hosts_is_accepted(tmp_path: Path) -> None:
    """A link that names its host leads somewhere on PyPI, too."""
    release.require_absolute_links(_wheel(tmp_path, "See [this](https://a.org/docs)."))


def test_a_description_with_a_link_into_the_repository_is_rejected(tmp_path: Path) -> None:
    """A link to a file, which PyPI does not have, ends the check."""
    wheel = _wheel(tmp_path, "See [this](docs/pace.md).")
    with pytest.raises(release.ReleaseError, match=r"links without a host: docs/pace\.md$"):
        release.require_absolute_links(wheel)


def test_the_modules_of_the_entry_points_are_in_the_wheel() -> None:
    """What the project registers for scripts and pytest can be imported from the wheel."""
    project = tomllib.loads((release.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["scripts"], *project["entry-points"].values()]
    modules = {one.partition(":")[0] for group in groups for one in group.values()}
    files = {f"{module.replace('.', '/')}{end}" for module in modules for end in _ENDS}
    there = {name for name in files if (release.ROOT / name).exists()}

    assert len(there) == len(modules)
    assert set(release.of_wheel(there)) == there


def _wheel(folder: Path, description: str) -> Path:
    wheel = folder / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", f"Name: a\n\n{description}\n")
    return wheel


def _script(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
