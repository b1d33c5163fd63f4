"""Tests of the rate that several processes share."""
