"""
The pytest plugin by its name in the library, for ``pytest_plugins`` and ``pytest -p``.

pytest loads the plugin itself, which is in a module of its own: ``_adapty_async_pytest``.
"""

from _adapty_async_pytest import (
    adapty_client,
    adapty_export_client,
    adapty_mail_client,
    adapty_sandbox,
    pytest_addoption,
    pytest_configure,
)

__all__ = (
    "adapty_client",
    "adapty_export_client",
    "adapty_mail_client",
    "adapty_sandbox",
    "pytest_addoption",
    "pytest_configure",
)
