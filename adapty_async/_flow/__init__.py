"""Flow control: rate limiters, concurrency limits, the circuit breaker and the retry budget."""
