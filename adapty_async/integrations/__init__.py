"""Integrations with foreign libraries: one module each, which nothing else imports."""

__all__: tuple[str, ...] = ()
