"""Tests of the webhooks: parsing, receiving, stores, web frameworks."""
