"""Clock, timers, event loops and forks: what every other package runs on."""
