"""From what a user typed to the reader, and the nearest valid thing when it is nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.data import image_cache, sources
from harness.data.synthetic import smear
from harness.errors import DataError, UserError
from harness.schema.dataset import Dataset

Save = Callable[..., Path]
Stack = Callable[..., np.ndarray]
Prepared = Callable[..., Dataset]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, stack: Stack) -> list[tuple[int, int]]:
    """A stand-in for the drawing, which records its arguments."""
    calls: list[tuple[int, int]] = []

    def draw(count: int, seed: int = 0) -> SimpleNamespace:
        calls.append((count, seed))
        return SimpleNamespace(images=stack(count, 12), labels=np.arange(count) % 8)

    monkeypatch.setattr(smear, "draw", draw)
    return calls


def test_smear_is_drawn_once(drawn: list[tuple[int, int]], prepared: Prepared) -> None:
    data = prepared("smear@40")
    assert prepared("smear@40").fingerprint == data.fingerprint
    assert drawn == [(40, 0)]
    assert data.images.shape == (40, 8, 8, 3)
    assert data.class_names == tuple(smear.CLASS_NAMES)
    assert data.name == "smear@40"


def test_smear_by_default(drawn: list[tuple[int, int]], prepared: Prepared) -> None:
    assert len(prepared("smear")) == 3000
    assert drawn == [(3000, 0)]


def test_another_drawing_is_other_data(
    drawn: list[tuple[int, int]], prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared("smear@40")
    monkeypatch.setattr(smear, "VERSION", smear.VERSION + 1)
    prepared("smear@40")
    prepared("smear@41")
    assert drawn == [(40, 0), (40, 0), (41, 0)]


def test_the_real_drawing_is_accepted(prepared: Prepared) -> None:
    data = prepared("smear@100", 32)
    assert data.images.shape == (100, 32, 32, 3)
    assert set(data.labels.tolist()) == set(range(8))


@pytest.mark.parametrize("source", ["smear@", "smear@x", "smear@-5", "smear@0", "smear@1e3"])
def test_numbers_after_the_word(source: str) -> None:
    with pytest.raises(DataError, match="write for example smear@3000"):
        sources.find(source, 96)


def test_a_file_is_read_again_only_when_it_changes(
    save: Save, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decodings = 0
    real_write = image_cache.write_images

    def counted(*arguments: Any) -> None:
        nonlocal decodings
        decodings += 1
        real_write(*arguments)

    monkeypatch.setattr(image_cache, "write_images", counted)
    path, cache = save(), tmp_path / "cache"
    first = sources.prepare(str(path), 8, cache)
    assert sources.prepare(str(path), 8, cache) == first
    assert decodings == 1
    save(images=stack(24, seed=1), labels=np.arange(24) % 3)
    assert sources.prepare(str(path), 8, cache) != first
    assert decodings == 2


def test_its_place_is_not_part_of_its_identity(
    save: Save, tmp_path: Path, prepared: Prepared
) -> None:
    here = save()
    there = tmp_path / "moved" / here.name
    there.parent.mkdir()
    there.write_bytes(here.read_bytes())
    cache = tmp_path / "cache"
    assert sources.prepare(str(here), 8, cache) == sources.prepare(str(there), 8, cache)


def test_a_word_wins_over_a_file(
    drawn: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smear").mkdir()
    assert sources.find("smear", 8).name == "smear"
    with pytest.raises(DataError, match="no sub-folders"):
        sources.find("./smear", 8)


def test_the_home_folder(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save()
    monkeypatch.setenv("HOME", str(path.parent))
    assert sources.find("~/cells.npz", 8).name == "cells"


def test_the_nearest_file_is_named(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save("training_set.npz")
    with pytest.raises(DataError) as error:
        sources.find(str(path.with_name("trainingset.npz")), 8)
    assert str(error.value).endswith(f"; did you mean '{path}'?")
    monkeypatch.chdir(path.parent)
    with pytest.raises(DataError, match=r"'training.npz'; did you mean 'training_set.npz'\?$"):
        sources.find("training.npz", 8)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("smaer", "did you mean 'smear'?"),
        ("bloodmnst", "did you mean 'bloodmnist'?"),
        ("BloodMNIST", "did you mean 'bloodmnist'?"),
        ("zzzzzz", "choose from bloodmnist, smear"),
        ("", "choose from bloodmnist, smear"),
        ("nowhere/x.npz", "there is no folder 'nowhere'"),
        ("/dev/null", "is neither a file nor a folder"),
        ("a\0b", "no such data"),
        ("x" * 5000, "cannot be opened"),
        ("~nobody-of-this-name/x.npz", "there is no such user"),
    ],
)
def test_the_nearest_word_is_named(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        sources.find(source, 8)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
