"""The library against documents that Adapty publishes."""
