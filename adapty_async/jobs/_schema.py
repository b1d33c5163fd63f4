"""The SQL schema of a job store, and its version."""

from __future__ import annotations

from adapty_async.jobs._database import Statement, Steps
from adapty_async.jobs._errors import JobError

#: The version of the tables; a release rejects a store with a later one.
VERSION = 1

# The statements that create the tables.
_TABLES = (
    "CREATE TABLE adapty_store (version integer NOT NULL)",
    """CREATE TABLE adapty_job (
  id {serial},
  name text NOT NULL UNIQUE,
  identity text NOT NULL,
  id_kind text NOT NULL,
  source text NOT NULL,
  items bigint NOT NULL,
  part_size integer NOT NULL,
  parts integer NOT NULL,
  planned_at double precision NOT NULL,
  stop_reason text
)""",
    """CREATE TABLE adapty_part (
  job bigint NOT NULL,
  number integer NOT NULL,
  first bigint NOT NULL,
  size integer NOT NULL,
  source text NOT NULL,
  runs integer NOT NULL DEFAULT 0,
  is_open integer NOT NULL DEFAULT 0,
  worker text,
  ended_at double precision,
  is_changed integer NOT NULL DEFAULT 0,
  done integer NOT NULL DEFAULT 0,
  absent integer NOT NULL DEFAULT 0,
  failed integer NOT NULL DEFAULT 0,
  unknown integer NOT NULL DEFAULT 0,
  not_sent integer NOT NULL DEFAULT 0,
  skipped integer NOT NULL DEFAULT 0,
  in_flight integer NOT NULL DEFAULT 0,
  PRIMARY KEY (job, number)
) {loose}""",
    "CREATE INDEX adapty_part_left ON adapty_part (job, number) WHERE ended_at IS NULL",
    """CREATE TABLE adapty_run (
  job bigint NOT NULL,
  part integer NOT NULL,
  number integer NOT NULL,
  started_at double precision NOT NULL,
  last_at double precision NOT NULL,
  ended_at double precision,
  stop_reason text,
  rate double precision,
  PRIMARY KEY (job, part, number)
) {loose}""",
    """CREATE TABLE adapty_span (
  job bigint NOT NULL,
  part integer NOT NULL,
  number integer NOT NULL,
  states {data} NOT NULL,
  checksum bigint NOT NULL,
  PRIMARY KEY (job, part, number)
) {loose}""",
    """CREATE TABLE adapty_key (
  job bigint NOT NULL,
  part integer NOT NULL,
  first bigint NOT NULL,
  keys {data} NOT NULL,
  PRIMARY KEY (job, part, first)
)""",
    """CREATE TABLE adapty_minute (
  job bigint NOT NULL,
  part integer NOT NULL,
  run integer NOT NULL,
  minute bigint NOT NULL,
  first_at double precision NOT NULL,
  last_at double precision NOT NULL,
  done integer NOT NULL,
  absent integer NOT NULL,
  failed integer NOT NULL,
  lost integer NOT NULL,
  unknown integer NOT NULL,
  not_sent integer NOT NULL,
  duplicate integer NOT NULL,
  requests integer NOT NULL,
  throttled integer NOT NULL,
  PRIMARY KEY (job, part, run, minute)
) {loose}""",
    """CREATE TABLE adapty_reason (
  job bigint NOT NULL,
  part integer NOT NULL,
  run integer NOT NULL,
  state text NOT NULL,
  error text NOT NULL,
  http_status integer NOT NULL,
  items integer NOT NULL,
  PRIMARY KEY (job, part, run, state, error, http_status)
)""",
)


def ensure_schema() -> Steps[None]:
    """
    Create the tables if there are none, and verify their version.

    Raises:
        JobError: a later release wrote them.
    """
    if not (yield Statement("{exists}")):
        yield Statement("{guard}")
        if not (yield Statement("{exists}")):
            for table in _TABLES:
                yield Statement(table)
            yield Statement("INSERT INTO adapty_store VALUES (:version)", {"version": VERSION})
    ((found,),) = yield Statement("SELECT max(version) FROM adapty_store")
    if found != VERSION:
        raise JobError(
            f"the job store has version {found}, and this release understands version {VERSION}:"
            " use the release that planned its jobs, or a later one"
        )
