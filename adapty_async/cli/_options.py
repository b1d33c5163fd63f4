"""The options that several commands share: their declarations, types and values."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from adapty_async import mail, v1, v2
from adapty_async._api.call import Operation
from adapty_async._bulk.settings import MAX_CONCURRENCY, MOST_WORKERS
from adapty_async._flow.concurrency_limit import INITIAL_CONCURRENCY
from adapty_async._input.layout import Format
from adapty_async.cli._columns import COLUMN_OPTIONS, column_option
from adapty_async.cli._help import complete_file
from adapty_async.config import ApiKey
from adapty_async.errors import ConfigError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)

#: The kinds of ids by API, the default first.
KINDS = {
    "v2": ("customer-user-id", "profile-id"),
    "v1": ("customer-user-id", "profile-id"),
    "mail": ("external-profile-id", "customer-user-id", "email"),
}
#: The functions that describe the deletion of a profile, by API.
DELETIONS: Mapping[str, Callable[..., Operation[Any]]] = {
    "v2": v2.delete_profile,
    "v1": v1.delete_profile,
    "mail": mail.delete_profile,
}
_ALL_KINDS = sorted({name for names in KINDS.values() for name in names})


def require_kind(api: str, by: str) -> None:
    """
    Validate that an API knows a kind of ids.

    Raises:
        click.UsageError: it does not; the message names the ones that it knows.
    """
    if by not in KINDS[api]:
        is_mail_only = by not in {*KINDS["v1"], *KINDS["v2"]}
        other = f"; {by} needs --api mail" if is_mail_only else ""
        raise click.UsageError(f"--by for --api {api} is one of {', '.join(KINDS[api])}{other}")


def add_options(*options: Callable[[Any], Any]) -> Callable[[CommandT], CommandT]:
    """Return a decorator that adds options to a command, in the order of its help."""

    def decorate(command: CommandT) -> CommandT:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class FiniteRange(click.FloatRange):
    """A finite number in a range; `click.FloatRange` alone accepts NaN and infinity, too."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number of a text; other text is a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


#: Requests per second; with fewer, a run would take years.
RATE = FiniteRange(min=0.001)
#: Seconds that are waited.
SECONDS = FiniteRange(min=0.001)

#: The options of every command that calls the API.
CONNECTION_OPTIONS = (
    click.option("--base-url", help="The origin to send to, if it is not Adapty's."),
    click.option(
        "--trust-env",
        is_flag=True,
        help="Use the proxy that HTTPS_PROXY or HTTP_PROXY names, except for hosts in NO_PROXY.",
    ),
    click.option(
        "--api-key-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Read the key from this file, not from the environment.",
    ),
)
#: Adds the options of a deletion: the API, and the ids of the users.
deletion_options = add_options(
    click.option(
        "--api",
        type=click.Choice(list(KINDS)),
        default="v2",
        show_default=True,
        help="The API to call: version 2 or 1 of the server-side API, or the Mail API.",
    ),
    click.option("--by", type=click.Choice(_ALL_KINDS), required=True, help="The kind of the ids."),
    column_option("The column or field with the ids; by default, named like --by."),
)
encoding_option = click.option(
    "--encoding", help="The encoding of INPUT, such as cp1252; UTF-8 by default."
)
id_encoding_option = click.option(
    "--id-encoding",
    type=click.Choice(["ascii", "utf-8"]),
    default="ascii",
    help="utf-8 allows ids that are not ASCII (v2, v1); how Adapty reads them is undocumented.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
_READING = [
    click.argument("input", shell_complete=complete_file),
    click.option(
        "--format",
        "form",
        type=click.Choice(get_args(Format)),
        help="The format of INPUT, if its name does not end in a known suffix, such as .csv, "
        ".ndjson, .txt, .parquet, .feather or .xlsx.",
    ),
    encoding_option,
    *COLUMN_OPTIONS,
    click.option(
        "--dedupe/--no-dedupe",
        default=None,
        help="Send each distinct request once (default for files).",
    ),
    click.option("--dry-run", is_flag=True, help="Read and validate all rows, send nothing."),
    click.option(
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Show the requests of the first N rows, with their personal data; send nothing.",
    ),
]
_SENDING = [
    click.option(
        "--concurrency",
        type=click.IntRange(1, MAX_CONCURRENCY),
        help=f"Requests in flight at most. By default {INITIAL_CONCURRENCY} at first, up to "
        f"{MOST_WORKERS}, as many as help.",
    ),
    click.option("--rate", type=RATE, help="Maximum requests per second."),
    yes_option,
    *CONNECTION_OPTIONS,
]
_REPORTING = [
    click.option(
        "--journal",
        type=_FILE,
        help="Record the run in this file; the same command again resumes it.",
    ),
    click.option(
        "--failures", type=_FILE, help="Write items that do not succeed to this NDJSON file."
    ),
    click.option(
        "--outcomes", type=_FILE, help="Add each row's id and outcome to this NDJSON file."
    ),
    json_option,
]


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """A group of the options by which a command connects to Adapty."""

    base_url: str | None
    trust_env: bool
    api_key_file: Path | None
    id_encoding: str = "ascii"

    def settings(self) -> dict[str, Any]:
        """
        Return the arguments of a client, without those about proxies.

        Raises:
            ConfigError: the key cannot be read from its file.
        """
        settings: dict[str, Any] = {"base_url": self.base_url}
        if self.id_encoding != "ascii":
            settings["id_encoding"] = self.id_encoding
        if self.api_key_file is not None:
            settings["api_key"] = _key_in(self.api_key_file)
        return settings

    def options(self) -> Iterator[str]:
        """Yield the options with which a user connects to Adapty in another way than by default."""
        if self.base_url is not None:
            yield from ("--base-url", self.base_url)
        if self.trust_env:
            yield "--trust-env"
        if self.api_key_file is not None:
            yield from ("--api-key-file", str(self.api_key_file))
        if self.id_encoding != "ascii":
            yield from ("--id-encoding", self.id_encoding)


class CommonOptions(Connection, frozen=True, kw_only=True):
    """A group of the options that all commands with an input share."""

    input: str
    form: Format | None
    concurrency: int | None
    rate: float | None
    failures: Path | None
    outcomes: Path | None
    dry_run: bool
    yes: bool
    as_json: bool
    journal: Path | None
    dedupe: bool | None
    columns: tuple[tuple[str, str], ...]
    constants: dict[str, str]
    ignore_unknown: bool
    preset: str | None
    sample: int | None
    encoding: str | None
    sheet: str | None


#: Adds the options that all commands with an input share.
common_options = add_options(*_READING, *_SENDING, *_REPORTING)


def _key_in(path: Path) -> str:
    """
    Return the API key in a file.

    Raises:
        ConfigError: others can read the file, or it has no key or another text.
    """
    name = f"--api-key-file {click.format_filename(path)}"
    if stat.S_IMODE(path.stat().st_mode) & 0o077 and os.name == "posix":
        raise ConfigError(f"{name} must be readable by its owner only: chmod 600")
    try:
        key = path.read_text(encoding="utf-8-sig").strip()  # Notepad begins files with a mark
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not text") from None
    if not key:
        raise ConfigError(f"{name} is empty")
    return ApiKey(key, env="", argument=name).reveal()
