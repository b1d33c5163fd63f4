"""Tests of the package `adapty_async._pipeline`."""
