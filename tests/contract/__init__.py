"""Contract tests of the library against documents that Adapty publishes."""
