"""
Every fault of network and server, over every kind of call.

`python -m tests.faults` writes what happens into `docs/faults.md`.
"""
