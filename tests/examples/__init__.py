"""Tests that run the files of the folder of examples against the sandbox."""
