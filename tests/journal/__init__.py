"""Tests of the package `adapty_async._journal`, module by module."""
