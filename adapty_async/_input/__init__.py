"""Input files and tables: readers of CSV, NDJSON, text, Arrow and spreadsheets, row by row."""
