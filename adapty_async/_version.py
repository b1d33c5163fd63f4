"""The version, in one place: the build reads it here, and so does the User-Agent header."""

__version__ = "0.2.0"
