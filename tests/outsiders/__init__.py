"""Tools of others against the sandbox and the client; see `__main__`."""
