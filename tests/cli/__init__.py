"""The command line: its parts by themselves, its commands in this process and as real processes."""
