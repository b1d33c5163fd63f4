"""``python -m adapty_async.cli`` is the command ``adapty-async``."""

from __future__ import annotations

from adapty_async.cli import main

main()
