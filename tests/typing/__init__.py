"""Typing tests for type checkers; none of this code is executed."""
