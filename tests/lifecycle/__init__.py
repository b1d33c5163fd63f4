"""Clients over their life: loops, threads, forks, cancellation at any time, closing, collection."""
