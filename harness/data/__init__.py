"""Data sets: reading, resizing, splitting and corrupting images."""
