"""Frozen types that travel: the definition of a run, and its records."""
