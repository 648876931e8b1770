"""One run: a network trained, evaluated and timed in a process of its own."""
