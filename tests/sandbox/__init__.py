"""Test the sandbox over real sockets, and its pure parts directly."""
