"""Checks of the documentation as a browser shows it: ``python -m tests.site FOLDER [URL...]``."""
