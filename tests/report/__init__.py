"""The report of a journal: its figures, its page, and the check of an input."""
