"""The images of a sweep on the workers of a Dask cluster, all of which have its version."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import WorkerPlugin

from harness import __version__
from harness.errors import UserError
from harness.storage.files import write_atomically


class ImagesPlugin(WorkerPlugin):  # type: ignore[misc]
    """Copies a folder of decoded images to every worker, also to those that join later."""

    idempotent = True

    def __init__(self, folder: Path, shifted: Path | None = None) -> None:
        """``shifted``: file of the corrupted copy of the test images, if it is needed."""
        self.place = f"wbc-bench-{folder.name}" + (f"-{shifted.parent.name}" if shifted else "")
        self.name = f"{self.place}-{uuid4().hex[:8]}"  # Other sweeps may send the same images.
        paths = [*folder.iterdir(), *([shifted] if shifted else [])]
        self.files = {path.name: path.read_bytes() for path in paths}
        self.version = __version__

    def setup(self, worker: Any) -> None:
        """Raises UserError on a worker of another version."""
        check_version(self.version)
        folder = images_folder(worker, self.place)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = folder / name
            if not (path.exists() and path.read_bytes() == content):  # Earlier sweeps left it.
                write_atomically(path, content)


def images_folder(worker: Any, name: str) -> Path:
    return Path(worker.local_directory) / name


def check_version(version: str) -> None:
    """Raises UserError on a worker of another version than the sweep's."""
    if version != __version__:
        raise UserError(f"--cluster: a worker has wbc-bench {__version__}, this machine {version}")
