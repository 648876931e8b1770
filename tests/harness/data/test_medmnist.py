"""MedMNIST's layout, and its files by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.data import sources
from harness.data.readers import medmnist
from harness.errors import DataError, Offline
from harness.schema.dataset import Dataset

Save = Callable[..., Path]
Stack = Callable[..., np.ndarray]
Prepared = Callable[..., Dataset]

# --- the layout ----------------------------------------------------------------------------------


def parts(images: np.ndarray, *names: str) -> dict[str, np.ndarray]:
    """The first 12, then 6 and 6 images, under the keys of ``names``; labels (n, 1)."""
    arrays = {}
    for name, part in zip(names, np.split(images, [12, 18]), strict=False):
        arrays[f"{name}_images"] = part
        arrays[f"{name}_labels"] = (np.arange(len(part)) % 3)[:, None].astype(np.uint8)
    return arrays


def test_the_parts_keep_their_split(save: Save, stack: Stack, prepared: Prepared) -> None:
    data = prepared(save(**parts(stack(24), "train", "val", "test")))
    np.testing.assert_array_equal(data.images, stack(24))
    assert data.given is not None
    assert data.given.tolist() == [0] * 12 + [1] * 6 + [2] * 6
    assert data.labels.tolist() == [0, 1, 2] * 8


def test_grey_parts_become_rgb(save: Save, stack: Stack, prepared: Prepared) -> None:
    data = prepared(save(**parts(stack(24)[..., 0], "train", "val", "test")))
    assert data.images.shape == (24, 8, 8, 3)
    assert (data.images == stack(24)[..., :1]).all()


def test_a_part_may_be_absent(save: Save, stack: Stack, prepared: Prepared) -> None:
    data = prepared(save(**parts(stack(24)[:18], "train", "test")))
    assert data.given is not None
    assert data.given.tolist() == [0] * 12 + [2] * 6


def test_rejected_layouts(save: Save, stack: Stack, prepared: Prepared) -> None:
    whole = parts(stack(24), "train", "val", "test")
    lost = {key: value for key, value in whole.items() if key != "val_labels"}
    with pytest.raises(DataError, match=r"no array 'val_labels'; the file has 'train_images'"):
        prepared(save(**lost))
    with pytest.raises(DataError, match=r"test_images has images of \(4, 4, 3\), but train_images"):
        prepared(save(**whole | {"test_images": stack(6, 4)}))
    with pytest.raises(DataError, match=r"val_labels: 5 labels for 6 images"):
        prepared(save(**whole | {"val_labels": np.arange(5) % 3}))
    with pytest.raises(DataError, match=r"test_images holds no images"):
        prepared(save(**whole | {"test_images": stack(0), "test_labels": np.zeros((0, 1), int)}))


# --- the download --------------------------------------------------------------------------------


def test_offline_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Prepared
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    # A port on which nothing listens stands for a machine without network.
    monkeypatch.setattr(medmnist, "ADDRESS", "http://127.0.0.1:9/{filename}?download=1")
    with pytest.raises(Offline) as error:
        prepared("bloodmnist@64")
    message = str(error.value)
    assert "http://127.0.0.1:9/bloodmnist_64.npz?download=1" in message
    assert str(tmp_path / ".medmnist" / "bloodmnist_64.npz") in message
    assert "\n" not in message


# --- by name -------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that holds stand-ins for all four files, so that nothing is downloaded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    table = {}
    for size, (filename, _) in medmnist.BLOODMNIST.items():
        path = tmp_path / ".medmnist" / filename
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **parts(stack(24, size), "train", "val", "test"))
        table[size] = (filename, hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(medmnist, "BLOODMNIST", table)
    return path.parent


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("source", "image_size", "expected"),
    [
        ("bloodmnist", 16, "bloodmnist@28"),
        ("bloodmnist", 28, "bloodmnist@28"),
        ("bloodmnist", 96, "bloodmnist@128"),
        ("bloodmnist", 512, "bloodmnist@224"),
        ("bloodmnist@64", 96, "bloodmnist@64"),
    ],
)
def test_the_size_by_default(source: str, image_size: int, expected: str) -> None:
    assert sources.find(source, image_size).name == expected


@pytest.mark.usefixtures("shelf")
def test_a_file_that_medmnist_has_fetched_is_used(prepared: Prepared, stack: Stack) -> None:
    data = prepared("bloodmnist@28", 28)
    assert data.name == "bloodmnist@28"
    np.testing.assert_array_equal(data.images, stack(24, 28))


@pytest.mark.parametrize("source", ["bloodmnist@96", "bloodmnist@", "bloodmnist@x"])
def test_other_sizes_do_not_exist(source: str) -> None:
    with pytest.raises(DataError, match="it comes in 28, 64, 128, 224 pixels"):
        sources.find(source, 96)


def test_fetching_by_name(shelf: Path) -> None:
    assert medmnist.published_file("bloodmnist@64") == shelf / "bloodmnist_64.npz"
    assert medmnist.published_file("bloodmnist") == shelf / "bloodmnist_128.npz"
    with pytest.raises(DataError, match="'pathmnist' cannot be downloaded; bloodmnist@SIZE can"):
        medmnist.published_file("pathmnist")


def test_validation_may_be_written_out(save: Save, prepared: Prepared, stack: Stack) -> None:
    arrays = {
        f"{part}_{key}": value
        for part in ("train", "validation", "test")
        for key, value in (("images", stack(6)), ("labels", np.arange(6) % 3))
    }
    data = prepared(save(**arrays))
    assert data.given is not None
    assert data.given.tolist() == [0] * 6 + [1] * 6 + [2] * 6
