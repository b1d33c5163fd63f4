"""Write the page of faults."""

from __future__ import annotations

from tests.faults.page import write

write()
