"""Tests of the package `adapty_async._input`, module by module."""
