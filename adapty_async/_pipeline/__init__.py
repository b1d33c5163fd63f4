"""The pipeline of a call, whose layers around the transport observe, retry, limit and check."""
