"""``python -m adapty_async.cli`` is the command ``adapty-async``."""

from __future__ import annotations

from _adapty_async_cli import main

main()
