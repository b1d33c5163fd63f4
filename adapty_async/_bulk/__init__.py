"""Bulk runs: many items through one call each, with bounded concurrency and a record."""
