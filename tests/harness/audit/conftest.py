"""The small sources of the data tests."""

from tests.harness.data.conftest import prepared, save, stack

__all__ = ["prepared", "save", "stack"]
