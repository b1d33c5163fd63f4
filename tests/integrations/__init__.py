"""Integrations, with the foreign libraries themselves."""
