"""The runtime layer: clock, timers, event-loop values and fork handlers."""
