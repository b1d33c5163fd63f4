"""The layers around the transport: observe, retry, limit and check."""
