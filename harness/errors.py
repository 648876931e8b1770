"""Everything that can go wrong because of what the user gave us.

    UserError                 one line on stderr, exit code 2, no traceback
    ├── ConfigError           benchmark.toml: unknown key, wrong type, impossible value
    ├── UnknownName           a name that is in no table; carries the nearest ones
    ├── DataError             a data source that cannot be read or must not be used
    │   └── Offline           a download is needed and there is no network
    ├── WeightsError          weights that are missing, damaged or do not fit the recipe
    └── StoreError            a results folder that this version cannot read

Any other exception is a bug, and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The user's input is wrong. The message says what, where, and the nearest valid thing."""


class ConfigError(UserError):
    """``benchmark.toml`` cannot be obeyed."""


class UnknownName(UserError):
    """A name that is in no table."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.name = name
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, known)}")


class DataError(UserError):
    """A data source that cannot be read, or whose content must not be trained on."""


class Offline(DataError):
    """A download is needed, and the network does not answer."""


class WeightsError(UserError):
    """Weights that are missing, damaged, or do not fit the recipe."""


class StoreError(UserError):
    """A results folder that this version of the program cannot read."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the choices when nothing is near."""
    known = sorted(known)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.55)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; choose from {', '.join(known)}" if known else ""
