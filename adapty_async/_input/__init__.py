"""Input files: a reader of CSV, NDJSON and plain text that never takes part of a cell for a row."""
