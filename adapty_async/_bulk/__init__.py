"""Bulk runs: one call for each item, with bounded concurrency and an outcome for every item."""
