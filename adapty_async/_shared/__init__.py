"""The rate that several processes share: its pure state, stores, and the side of a process."""
