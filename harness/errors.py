"""The errors that a user can cause and mend.

    UserError                 one line on stderr, exit code 2, no traceback
    ├── ConfigError           benchmark.toml: unknown key, wrong type, impossible value
    ├── UnknownName           a name that is not known, with the nearest one
    ├── DataError             a data source that cannot be read or must not be used
    ├── Offline               a download is needed and there is no network
    ├── ChecksumError         a download whose bytes are not those that were published
    ├── ImageSizeError        images of a size that a recipe cannot take
    ├── WeightsError          weights that are missing, damaged or do not fit the recipe
    ├── StoreError            a results or cache folder that cannot be read or written
    ├── NoAccess              a path that may not be written
    └── NoRoom                a disk that is full, or the limit of a cache

Any other exception is a bug, and shows its traceback.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from zoo.errors import ImageSizeError as ImageSizeError
from zoo.errors import Offline as Offline
from zoo.errors import UnknownName as UnknownName
from zoo.errors import UserError as UserError
from zoo.errors import WeightsError as WeightsError
from zoo.errors import did_you_mean as did_you_mean
from zoo.errors import home_expanded as home_expanded
from zoo.errors import printable as printable


class ConfigError(UserError):
    """An invalid ``benchmark.toml``."""


class DataError(UserError):
    """A data source that cannot be read, or whose content must not be trained on."""


class ChecksumError(UserError):
    """A download whose bytes are not those that were published."""


class StoreError(UserError):
    """A results folder that this version of the program cannot read."""


class NoRoom(UserError):
    """A disk is full; files that were there stay intact."""

    @classmethod
    def at(cls, place: object, reason: str = "") -> NoRoom:
        problem = f"the disk is full ({reason})" if reason else "the disk is full"
        return cls(f"{place}: {problem}; make room, and the same command goes on from here")


class IgnoredFile(UserWarning):
    """Something in a folder of results or images that is no record or image, and is left out."""


class NoAccess(UserError):
    """A path of the user's that may not be written; files that were there stay intact."""

    @classmethod
    def at(cls, place: object, reason: object) -> NoAccess:
        return cls(f"{place}: {reason}; make it writable, and the same command goes on from here")


def is_no_access(error: BaseException) -> bool:
    """Whether the system does not permit to write a path."""
    return isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}


_GONE = {
    errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EIO, errno.ENODEV, errno.ENXIO,
    errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN,
}  # fmt: skip
"""What the system says of a path that is not there any more, or whose disk is not."""


def unwritable(error: Exception, folder: object) -> NoRoom | NoAccess | None:
    """What to say where ``folder`` could not be written; None where the error is another one."""
    if isinstance(error, NoRoom | NoAccess):
        return error
    if is_no_room(error):
        return NoRoom.at(folder)
    if isinstance(error, OSError) and (is_no_access(error) or error.errno in _GONE):
        return NoAccess.at(error.filename or folder, error.strerror)
    return None


def path_error(error: OSError, path: object = None) -> UserError:
    """What the system says about a user's path, as one line that names the path."""
    place = error.filename if path is None else path
    if is_no_room(error):
        return NoRoom.at(place or "somewhere")
    if error.errno in {errno.EEXIST, errno.ENOTDIR}:
        named = Path(str(error.filename or place))
        file = next(filter(os.path.isfile, (*reversed(named.parents), named)), named)
        return UserError(f"{file}: is a file, where a folder is needed")
    return UserError(f"{place or 'a file'}: {error.strerror or error}")


def is_no_room(error: BaseException) -> bool:
    """Whether an error says that a disk, a quota or the largest file size is used up."""
    if not isinstance(error, OSError):
        return False
    hdf5 = re.search(r"errno = (\d+)", str(error))  # HDF5 gives the number in its message alone.
    number = int(hdf5.group(1)) if hdf5 else error.errno
    return number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


_OUT_OF_MEMORY = (
    "memoryerror", "resourceexhausted", "resource exhausted", "out of memory", "outofmemory",
    "bad alloc", "alloc failed", "cannot allocate memory", "memory allocation still failed",
    "can't start new thread", "failed to map segment", "dst tensor is not initialized",
)  # fmt: skip
"""What the libraries call it, in small letters and with spaces for underscores."""


def is_out_of_memory(text: str) -> bool:
    """Whether the message of a library says that memory, or the address space, is used up."""
    return any(words in text.lower().replace("_", " ") for words in _OUT_OF_MEMORY)
