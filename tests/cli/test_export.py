"""The commands of ``export``, against a sandbox."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from adapty_async.cli import _export_commands
from adapty_async.sandbox import Sandbox
from tests.cli.conftest import Invoke, StartSandbox
from tests.cli.processes import DEADLINE, started

YEAR = ("--from", "2025-01-01", "--to", "2025-12-31")
SPRING = ("--from", "2025-03-15", "--to", "2025-04-30")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return the path of a file."""
    return tmp_path / "export.csv"


@pytest.fixture
def sandbox(start_sandbox: StartSandbox) -> Iterator[Sandbox]:
    """Run a sandbox that throttles no export; the environment points to it."""
    with start_sandbox(export_rate=None) as running:
        yield running


def paths_of(sandbox: Sandbox) -> list[str]:
    """Return the last parts of the paths that were called."""
    return [arrival.path.rstrip("/").rpartition("/")[2] for arrival in sandbox.arrivals()]


def test_a_chart_is_exported_by_chunks(sandbox: Sandbox, invoke: Invoke, output: Path) -> None:
    """A chart in CSV is one file of monthly requests, with progress on standard error."""
    result = invoke(
        "export", "analytics", "--chart", "revenue", *SPRING, "--format", "csv", "-o", output
    )

    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(output.read_text("utf-8").splitlines()))
    assert [row["date"] for row in rows] == ["2025-03-15", "2025-04-01"]
    assert paths_of(sandbox) == ["analytics"] * 2
    size = output.stat().st_size
    assert result.stdout == f"{output}: {size} bytes in 2 requests\n"
    first, second = result.stderr.splitlines()
    assert first.startswith("Exporting: 1 of 2, 2025-03-15 to 2025-03-31, ")
    assert second == f"Exporting: 2 of 2, 2025-04-01 to 2025-04-30, {size} bytes"


OTHERS = {
    "cohort": (
        "--period-type",
        "days",
        "--renewal-day",
        "0",
        "--renewal-day",
        "7",
        "--value-type",
        "absolute",
        "--value-field",
        "arpu",
        "--accounting-type",
        "proceeds",
        "--prediction-months",
        "6",
        "--period-unit",
        "quarter",
    ),
    "conversion": ("--from-period", "1", "--to-period", "6+", "--date-type", "purchase_date"),
    "funnel": ("--show-value-as", "both", "--filter", "country=us", "--filter", "country=de"),
    "ltv": ("--segmentation", "country", "--tz", "Europe/Berlin"),
    "retention": ("--use-trial",),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_exports_are_one_request(
    sandbox: Sandbox, invoke: Invoke, output: Path, name: str
) -> None:
    """An export whose meaning depends on its dates is not divided by default."""
    result = invoke("export", name, *YEAR, *OTHERS[name], "--json", "-o", output)

    assert result.exit_code == 0, result.output
    assert paths_of(sandbox) == [name]
    size = output.stat().st_size
    assert msgspec.json.decode(result.stdout) == {
        "path": str(output),
        "chunks": 1,
        "resumed": 0,
        "size": size,
    }


def test_placements_go_to_standard_output(sandbox: Sandbox, invoke: Invoke) -> None:
    """Without a file, the export itself is on standard output, in both formats."""
    result = invoke("export", "placements", "--placement-type", "onboarding")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].endswith(",onboarding_name")
    result = invoke("export", "placements", "--placement-type", "paywall", "--format", "json")
    assert len(msgspec.json.decode(result.stdout)["data"]) == 3
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        (("--chunk", "none"), 1),
        (("--period-unit", "week"), 1),
        (("--period-unit", "year"), 1),
        (("--format", "json"), 1),
        (("--format", "json", "--chunk", "month"), 2),
        (("--period-unit", "day", "--chunk", "quarter"), 2),
    ],
    ids=str,
)
def test_chunks_of_a_chart(
    sandbox: Sandbox, invoke: Invoke, output: Path, options: tuple[str, ...], requests: int
) -> None:
    """A chart is divided as configured; by default only where that changes nothing."""
    result = invoke("export", "analytics", "--chart", "mrr", *SPRING, *options, "-o", output)

    assert result.exit_code == 0, result.output
    assert len(paths_of(sandbox)) == requests
    assert output.stat().st_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--filter", "country=usa"), "--filter country: must be a two-letter country code"),
        (("--filter", "store="), "--filter store: must not be empty"),
        (("--chart", ""), "--chart: must not be empty"),
        (("--date-type", ""), "--date-type: must not be empty"),
        (("--segmentation", ""), "--segmentation: must not be empty"),
        (("-o", "/"), "/ is not a regular file"),
        (("-o", "x.parquet"), "-o x.parquet: an export is CSV or JSON"),
        (("--filter", "colour=red"), "--filter colour=red: must be NAME=VALUE, and NAME one of"),
        (("--filter", "country"), "--filter country: must be NAME=VALUE"),
        (("--tz", "Mars/Base"), "--tz: must be the IANA name of a time zone"),
        (
            ("--chunk", "day"),
            "--chunk: a day would divide a period of a month; --period-unit must be day",
        ),
        (("--json",), "--json needs -o"),
        (("--to", "2024-01-01"), "--from and --to: must not end before it begins"),
        (("--to", "soon"), "Invalid value for '--to': 'soon' is no day, such as 2026-01-31."),
        (("--to", "2026-W05"), "Invalid value for '--to': '2026-W05' is no day"),
        (("--chart", "brand_new"), "field chart_id"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(
    sandbox: Sandbox, invoke: Invoke, options: tuple[str, ...], message: str
) -> None:
    """Invalid input has exit code 2, and the message has the option."""
    result = invoke("export", "analytics", "--chart", "mrr", *YEAR, *options)

    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_wrong_option_of_a_cohort_is_named(sandbox: Sandbox, invoke: Invoke) -> None:
    """An option that may be passed several times has its own name, and not that of the list."""
    result = invoke("export", "cohort", *YEAR, "--renewal-day", "-1")

    assert result.exit_code == 2, result.output
    assert "--renewal-day: must be a whole number from 0" in result.stderr
    assert paths_of(sandbox) == []


def test_a_wrong_key_has_its_own_code(
    sandbox: Sandbox, invoke: Invoke, output: Path, tmp_path: Path
) -> None:
    """A rejected key is exit code 3; the key may come from a file."""
    key = tmp_path / "key"
    key.write_text("wrong")
    key.chmod(0o600)
    options = ("--api-key-file", key, "-o", output)
    result = invoke("export", "funnel", *YEAR, *options)

    assert result.exit_code == 3, result.output
    assert "status 401" in result.stderr
    assert not output.exists()
    key.write_text(sandbox.api_key)
    assert invoke("export", "funnel", *YEAR, *options).exit_code == 0


def test_a_request_that_fails_has_its_own_code(
    sandbox: Sandbox, invoke: Invoke, output: Path
) -> None:
    """A request that fails for good is exit code 1, and one that fails once is retried."""
    command = ("export", "funnel", *YEAR, "-o", output)
    sandbox.fail_next("501")
    result = invoke(*command)
    assert result.exit_code == 1, result.output
    assert "status 501" in result.stderr
    assert not output.exists()
    sandbox.fail_next("reset_after")
    assert invoke(*command).exit_code == 0
    assert output.exists()


def test_a_full_folder_is_named(sandbox: Sandbox, invoke: Invoke, tmp_path: Path) -> None:
    """A file that cannot be written is exit code 2, and nothing is sent."""
    result = invoke("export", "funnel", *YEAR, "-o", tmp_path / "missing" / "export.csv")

    assert result.exit_code == 2
    assert "export.csv cannot be written: No such file or directory" in result.stderr
    assert sandbox.arrivals() == []


def test_an_interrupted_export_resumes(sandbox: Sandbox, invoke: Invoke, output: Path) -> None:
    """Ctrl-C is exit code 130, and the same command resumes after the complete chunks."""
    command = ("export", "analytics", "--chart", "mrr", *YEAR, "--chunk", "quarter", "-o", output)
    with started(*command) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"Exporting: 1 of 4")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, errors
    assert b"Interrupted. The same command resumes" in errors
    assert not output.exists()
    result = invoke(*command)

    assert result.exit_code == 0, result.output
    assert re.search(r"in 4 requests, [123] of them earlier", result.stdout)
    assert len(output.read_text("utf-8").splitlines()) == 13
    assert sandbox.count()[200] <= 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_an_interrupted_export_to_standard_output_leaves_nothing(
    sandbox: Sandbox, tmp_path: Path, number: int
) -> None:
    """A signal to end has exit code 130, and leaves no temporary file and no false promise."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = ("export", "analytics", "--chart", "mrr", *YEAR)
    with started(*command, env=environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"Exporting: 1 of 12")
        process.send_signal(number)
        written, errors = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130, errors
    assert errors.endswith(b"Interrupted. The export is not complete.\n")
    assert written == b""
    assert list(tmp_path.iterdir()) == []
    assert len(paths_of(sandbox)) < 12


def test_a_proxy_that_cannot_be_used_is_named(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --trust-env, the proxy of the environment has to be usable."""
    monkeypatch.setenv("ADAPTY_API_KEY", "key")
    monkeypatch.setenv("https_proxy", "socks5://proxy.test:1080")
    monkeypatch.delenv("no_proxy", raising=False)
    result = invoke("export", "funnel", *YEAR, "--trust-env")

    assert result.exit_code == 2
    assert "--trust-env needs a proxy with http:// or https:// in https_proxy" in result.stderr


def test_standard_output_that_fails(sandbox: Sandbox) -> None:
    """An export that cannot be written to standard output is exit code 1."""
    command = ("export", "placements", "--placement-type", "paywall")
    with Path("/dev/full").open("wb") as full, started(*command, stdout=full) as process:
        _, errors = process.communicate(timeout=DEADLINE)

    assert process.returncode == 1
    assert b"standard output cannot be written" in errors


def test_sizes_are_readable() -> None:
    """Sizes are in bytes or, if large, in megabytes."""
    assert _export_commands._size(999_999) == "999,999 bytes"
    assert _export_commands._size(1_234_567_890) == "1,234.6 MB"
