"""Frozen types that travel: what is asked of a run, and what is recorded of it."""
