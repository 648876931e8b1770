"""Devices, locks and child processes."""
