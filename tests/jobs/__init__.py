"""Tests of jobs of many processes."""
