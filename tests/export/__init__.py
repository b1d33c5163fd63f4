"""Tests of the export analytics API."""
