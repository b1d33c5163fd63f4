"""The base class of all clients, which builds their pipeline."""
