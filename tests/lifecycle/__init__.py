"""
Clients over their life: loops, threads, forks, cancellation at any moment, closing and collection.
"""
