"""Version 2 of the server-side API."""
