"""Compiled programs on disk, shared by all runs: JAX's persistent compilation cache.

JAX finds an entry by program, versions, flags and device, and compiles what it cannot read. It
writes entries in place and never replaces one, so entries torn by a killed process or a full disk
are removed here, and the least recently used ones beyond a limit. XLA's autotuning results lie
in the same folder.

The other backends have none: TensorFlow's (``tf_xla_persistent_cache_directory``) fails every run
that meets a damaged entry, and PyTorch compiles nothing here.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from harness.execution.devices import Device, cpu_features
from harness.schema.run import Backend

FOLDER_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
ENTRY = "*-cache"
AUTOTUNING = "xla_gpu_per_fusion_autotune_cache_dir"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKED = ".checked"


def environment(folder: Path, device: Device, backend: Backend) -> dict[str, str]:
    """Environment variables by which a worker uses the cache in ``folder``.

    Empty for a backend without one, where the user names a cache, and where the folder cannot be
    written.
    """
    if backend != "jax" or FOLDER_VARIABLE in os.environ:
        return {}
    # Programs for a CPU use its instructions: another machine may share this folder.
    name = f"cpu-{_digest(cpu_features())}" if device.id == "cpu" else "gpu"
    try:
        (folder / name / AUTOTUNING / "tmp").mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    return {
        FOLDER_VARIABLE: str((folder / name).resolve()),
        # Building a network compiles hundreds of small programs.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def enter_folder() -> None:
    """Make the folder the current one of this process and name it ``.``: call it before JAX loads.

    The path of the autotuning results is part of every key; so it is the same in any folder.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE) or ".")
    if folder.is_absolute() and (folder / AUTOTUNING).is_dir():
        os.chdir(folder)
        os.environ[FOLDER_VARIABLE] = "."


def clean(folder: Path, limit_bytes: int) -> None:
    """Remove torn entries, and the least recently used ones beyond ``limit_bytes``.

    Other processes may use the cache meanwhile: an entry that is gone is compiled again.
    """
    marker = folder / _CHECKED
    checked = marker.stat().st_mtime if marker.exists() else 0.0
    files = sorted(_files(folder))  # Before reading, which would count as a use.
    whole = [file for file in files if not _remove_torn(file.path, checked)]
    excess = sum(file.size for file in whole) - limit_bytes
    for file in whole:
        if excess <= 0:
            break
        with suppress(OSError):
            file.path.unlink()
            excess -= file.size
    with suppress(OSError):
        if folder.exists():
            marker.touch()


def _remove_torn(path: Path, checked: float) -> bool:
    """Remove an entry written since the last check if it is torn; whether it was."""
    try:
        recent = path.match(ENTRY) and path.stat().st_mtime >= checked
        torn = recent and is_torn(path.read_bytes())
        if torn:
            path.unlink()
    except OSError:  # Another process has removed it.
        return True
    return torn


def is_torn(entry: bytes) -> bool:
    """Whether an entry cannot be decompressed."""
    try:
        if entry.startswith(_ZSTD_MAGIC):
            _zstd().decompress(entry)
        else:
            zlib.decompress(entry)
    except ImportError:
        return False  # JAX has written it, so it can read it.
    except Exception:  # Each library has its own.
        return True
    return False


def _zstd() -> Any:
    """The library that JAX uses: of Python 3.14 on, else ``zstandard``."""
    try:
        return import_module("compression.zstd")
    except ImportError:
        return import_module("zstandard")


class _File(NamedTuple):
    last_use: float
    size: int
    path: Path


def _files(folder: Path) -> Iterator[_File]:
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.stat()
            if path.is_file() and path.name != _CHECKED:
                yield _File(max(status.st_atime, status.st_mtime), status.st_size, path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
