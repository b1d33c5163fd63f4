"""The commands of version 2 of the server-side API: profiles, transactions, access levels."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from adapty_async import v2
from adapty_async._api.call import Operation
from adapty_async._input.mapping import RowMapping
from adapty_async._input.rows import Rows
from adapty_async._input.schema import ColumnSchema, rows_of
from adapty_async._journal import RunName
from adapty_async.cli._app import (
    _client,
    _exit_on_error,
    _job,
    _mapping,
    _named,
    _perform_and_report,
    _require_fields,
    _rows,
    _run,
    _sends_nothing,
    cli,
)
from adapty_async.cli._columns import column_option
from adapty_async.cli._confirmation import ask_about, describe_users
from adapty_async.cli._help import examples
from adapty_async.cli._job import summary_of
from adapty_async.cli._options import KINDS, CommonOptions, common_options
from adapty_async.client import AdaptyClient
from adapty_async.errors import InvalidInputError

__all__ = ("cli", "create", "grant", "import_transactions", "revoke")

_BY = click.option(
    "--by", type=click.Choice(KINDS["v2"]), required=True, help="The kind of the ids."
)
_COLUMN = column_option("The column or field with the ids, if not named like --by.")
_LEVEL = click.option(
    "--access-level",
    help="Its id in the Adapty dashboard; required without a column access_level_id.",
)


@cli.command(
    "import-transactions",
    epilog=examples("import-transactions purchases.csv --by customer-user-id --journal run.db"),
)
@common_options
@_BY
@_COLUMN
@click.option(
    "--create-missing",
    is_flag=True,
    help="Create a profile that is missing before its purchase is recorded.",
)
def import_transactions(
    by: str, column: str | None, *, create_missing: bool, **common: Any
) -> None:
    """
    Record the purchases in INPUT; each needs a profile.

    INPUT is CSV, NDJSON, Parquet, Arrow or a spreadsheet; - is standard input. Columns are named
    after the fields of a transaction, purchase_type among them, nested ones with a dot:
    price.value, offer.id; for exports of other services see --from. Empty cells are not sent.
    """
    field = by.replace("-", "_")
    if create_missing and by != "customer-user-id":
        raise click.UsageError("--create-missing goes with --by customer-user-id only")

    def build(value: Any) -> Operation[Any]:
        item_id, transaction = mapping.item(value)
        ids: dict[str, Any] = {field: item_id}
        return v2.set_transaction(transaction, create_missing=create_missing, **ids)

    options = CommonOptions(**common)
    with _exit_on_error():
        mapping = _mapping(options, v2.TRANSACTION_COLUMNS, field, column)
        rows = _rows(options, mapping)
        _require_fields(rows, "transaction")
        what = f"v2 import transactions{', create missing,' if create_missing else ''}"
        name = _named(what, mapping, by)
        _run_job("Importing", name, rows, build, options)


@cli.command(epilog=examples("create users.csv --if-missing --journal run.db"))
@common_options
@column_option("The column or field with the ids, if not customer_user_id.")
@click.option("--if-missing", is_flag=True, help="Leave a profile that exists as it is; see below.")
def create(column: str | None, *, if_missing: bool, **common: Any) -> None:
    """
    Create the profiles in INPUT in the server-side API.

    INPUT is a file with one customer user id a line, or CSV, NDJSON, Parquet, Arrow or a
    spreadsheet with a column for the ids and columns named after the profile's attributes, nested
    ones with a dot: custom_attributes.plan. - is standard input. Empty cells are not sent.

    Adapty does not document the effect of a second creation. With --if-missing, each profile is
    read first, and created only if there is none.
    """
    describe: Callable[..., Operation[Any]] = (
        v2.get_or_create_profile if if_missing else v2.create_profile
    )

    def build(value: Any) -> Operation[Any]:
        is_object = isinstance(value, dict)
        row = value if is_object else {mapping.id_column: value}
        customer_user_id, attributes = mapping.item(row)
        return describe(attributes, customer_user_id=customer_user_id)

    options = CommonOptions(**common)
    with _exit_on_error():
        mapping = _mapping(options, v2.ATTRIBUTE_COLUMNS, "customer_user_id", column)
        name = _named(f"v2 create{' if missing' if if_missing else ''}", mapping)
        _run_job("Creating", name, _rows(options, mapping), build, options)


@cli.command(
    epilog=examples(
        "grant ids.csv --by profile-id --access-level vip --expires-at 2027-01-01T00:00:00Z",
        "grant grants.csv --by customer-user-id --map until=expires_at",
    )
)
@common_options
@_BY
@_COLUMN
@_LEVEL
@click.option(
    "--starts-at", help="When the access starts, such as 2026-06-01T00:00:00Z; now by default."
)
@click.option("--expires-at", help="When the access ends; never by default.")
def grant(
    by: str,
    column: str | None,
    access_level: str | None,
    starts_at: str | None,
    expires_at: str | None,
    **common: Any,
) -> None:
    """
    Grant an access level to the users in INPUT.

    INPUT is a file with one id a line, or CSV, NDJSON, Parquet, Arrow or a spreadsheet with a
    column for the ids; - is standard input. The columns access_level_id, starts_at and expires_at
    are those of each grant, and replace --access-level, --starts-at and --expires-at: a column and
    its option together are an error. A grant whose expires_at is empty never ends. Other columns
    are rejected, unless --ignore-unknown is given.
    """
    options = CommonOptions(**common)
    given = _given(
        ("access_level_id", "--access-level", access_level),
        ("starts_at", "--starts-at", starts_at),
        ("expires_at", "--expires-at", expires_at),
    )
    with _exit_on_error():
        _struct_of(v2.GRANT_COLUMNS, given)
        mapping = _mapping(options, v2.GRANT_COLUMNS, by.replace("-", "_"), column, given)
        rows = _access_rows(options, mapping, given)
        build = functools.partial(_of_access, v2.grant_access_level, mapping, by)
        what = _what("grant", access_level, ("from", starts_at), ("to", expires_at))
        name = _named(what, mapping, by)
        _run_job("Granting", name, rows, build, options)


@cli.command(
    epilog=examples("revoke ids.csv --by customer-user-id --access-level premium --journal run.db")
)
@common_options
@_BY
@_COLUMN
@_LEVEL
@click.option(
    "--revoke-at", help="When the access ends, such as 2026-06-01T00:00:00Z; now by default."
)
def revoke(
    by: str, column: str | None, access_level: str | None, revoke_at: str | None, **common: Any
) -> None:
    """
    Revoke an access level of the users in INPUT.

    INPUT is a file with one id a line, or CSV, NDJSON, Parquet, Arrow or a spreadsheet with a
    column for the ids; - is standard input. The columns access_level_id and revoke_at are those of
    each revocation, and replace --access-level and --revoke-at: a column and its option together
    are an error. Other columns are rejected, unless --ignore-unknown is given. Subscriptions in a
    store continue: the next renewal opens the access level again.
    """
    options = CommonOptions(**common)
    given = _given(
        ("access_level_id", "--access-level", access_level),
        ("revoke_at", "--revoke-at", revoke_at),
    )
    with _exit_on_error():
        revocation = _struct_of(v2.REVOCATION_COLUMNS, given)
        revocation.check_documented()  # otherwise every row would fail with the same error
        mapping = _mapping(options, v2.REVOCATION_COLUMNS, by.replace("-", "_"), column, given)
        rows = _access_rows(options, mapping, given)
        build = functools.partial(_of_access, v2.revoke_access_level, mapping, by)
        name = _named(_what("revoke", access_level, ("at", revoke_at)), mapping, by)
        level = "access levels" if access_level is None else access_level
        _run_job("Revoking", name, rows, build, options, f"Revoke {level}, by {by}")


def _what(verb: str, level: str | None, *times: tuple[str, str | None]) -> str:
    """Return what a run does, for people; the digest of its mapping has the same options."""
    given = [f" {word} {time}" for word, time in times if time is not None]
    return f"v2 {verb} {level or 'access levels'}{''.join(given)}"


def _given(*options: tuple[str, str, str | None]) -> dict[str, tuple[str, str]]:
    """Return the options that were given and their values, by the field that they set."""
    return {field: (option, value) for field, option, value in options if value is not None}


def _struct_of(schema: ColumnSchema, given: dict[str, tuple[str, str]]) -> Any:
    """Build what is sent of the options alone, to reject them before the first row is read."""
    values = {field: value for field, (_, value) in given.items()}
    return rows_of(schema).struct({"access_level_id": "of the row", **values})


def _access_rows(
    options: CommonOptions, mapping: RowMapping, given: dict[str, tuple[str, str]]
) -> Rows:
    rows = _rows(options, mapping, id_optional=True)
    if rows.form == "text" and not {*given, *options.constants} & {"access_level_id"}:
        raise InvalidInputError("--access-level", "is required: a line of text has no columns")
    return rows


def _of_access(
    describe: Callable[..., Operation[Any]], mapping: RowMapping, by: str, value: Any
) -> Operation[Any]:
    """Return the grant or revocation of a row, by the function that describes one."""
    row = value if isinstance(value, dict) else {mapping.id_column: value}
    item_id, found = mapping.item(row)
    values = {name: getattr(found, name) for name in found.__struct_fields__}
    return describe(**values, **{by.replace("-", "_"): item_id})


def _run_job(
    title: str,
    name: RunName,
    rows: Rows,
    build: Callable[[Any], Operation[Any]],
    options: CommonOptions,
    question: str | None = None,
) -> None:
    job = _job(title, name, rows, build, options, summary_of(options.journal))
    client = _client(AdaptyClient, options)
    if question is not None and not _sends_nothing(options) and not options.yes:
        what = f"{question}, from {describe_users(job, client.origin)}, at {client.origin}?"
        ask_about(job, what, "Nothing was revoked.")
    sys.exit(_run(_perform_and_report(job, client, options)))
