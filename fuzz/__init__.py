"""Coverage-guided fuzzing of all parsers of external data."""
