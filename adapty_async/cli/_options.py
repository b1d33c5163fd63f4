"""The values of the options that several commands share."""

from __future__ import annotations

from pathlib import Path

import msgspec

from adapty_async._input.rows import Format

__all__ = ("CommonOptions",)


class CommonOptions(msgspec.Struct, frozen=True, kw_only=True):
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
    base_url: str | None
    api_key_file: Path | None
    journal: Path | None
    dedupe: bool | None
    trust_env: bool
    columns: tuple[tuple[str, str], ...]
    constants: dict[str, str]
    ignore_unknown: bool
    preset: str | None
    sample: int | None
    id_encoding: str = "ascii"
    encoding: str | None = None
    sheet: str | None = None
