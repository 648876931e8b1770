"""Everything that can go wrong because of what the user gave us.

    UserError                 one line on stderr, exit code 2, no traceback
    ├── ConfigError           benchmark.toml: unknown key, wrong type, impossible value
    ├── UnknownName           a name that is in no table; carries the nearest ones
    ├── DataError             a data source that cannot be read or must not be used
    ├── Offline               a download is needed and there is no network
    ├── ImageSizeError        images too small for a recipe
    ├── WeightsError          weights that are missing, damaged or do not fit the recipe
    ├── StoreError            a results folder that this version cannot read
    └── NoRoom                a disk that is full

Any other exception is a bug, and shows its traceback.
"""

from __future__ import annotations

import errno
import re

from zoo.errors import ImageSizeError as ImageSizeError
from zoo.errors import Offline as Offline
from zoo.errors import UnknownName as UnknownName
from zoo.errors import UserError as UserError
from zoo.errors import WeightsError as WeightsError
from zoo.errors import did_you_mean as did_you_mean


class ConfigError(UserError):
    """``benchmark.toml`` cannot be obeyed."""


class DataError(UserError):
    """A data source that cannot be read, or whose content must not be trained on."""


class StoreError(UserError):
    """A results folder that this version of the program cannot read."""


class NoRoom(UserError):
    """A disk is full. What was there is intact; the same command goes on when there is room."""

    @classmethod
    def at(cls, place: object, told: str = "") -> NoRoom:
        """``told``: whatever else is known of it."""
        what = f"the disk is full ({told})" if told else "the disk is full"
        return cls(f"{place}: {what}; make room, and the same command goes on from here")


def is_no_room(error: BaseException) -> bool:
    """Whether an error says that a disk, a quota or a file's largest size is used up.

    HDF5 tells the number in its message alone.
    """
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    told = re.search(r"errno = (\d+)", str(error))
    return isinstance(error, OSError) and (
        error.errno in full or (told is not None and int(told.group(1)) in full)
    )
