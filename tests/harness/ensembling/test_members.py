"""What concatenation reads among the artefacts of its members, which may be of another folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.ensembling.builder import fit_ensembles
from harness.ensembling.members import EnsembleMembers, group_members
from harness.errors import UserError
from harness.storage.files import write_arrays
from harness.storage.predictions import write_predictions
from harness.storage.records import FEATURES, PREDICTIONS, Store
from tests.harness.conftest import made_predictions, made_record, save_finished

Features = dict[str, np.ndarray]
NAMES = ["lite0", "vgg16"]


def make_group(root: Path, spoil: Callable[[Features], object]) -> EnsembleMembers:
    store = Store(root)
    for name in NAMES:
        record = made_record(name)
        save_finished(store, record)
        parts, folder = made_predictions(record.run), store.artefacts(record.run)
        write_predictions(folder / PREDICTIONS, parts)
        features = {part: rows.probabilities.copy() for part, rows in parts.items()}
        spoil(features)
        write_arrays(folder / FEATURES, features)
    (group,) = group_members(store, NAMES)
    return group


def test_features_are_those_of_the_images(tmp_path: Path) -> None:
    group = make_group(tmp_path, lambda _: None)
    assert [arrays["train"].shape[1] for arrays in group.features] == [3, 3]
    assert len(fit_ensembles(group, ("concatenation",)).records) == 1


SPOILED: dict[str, Callable[[Features], object]] = {
    "fewer rows": lambda features: features.update(test=features["test"][:3]),
    "no training images": lambda features: features.pop("train"),
    "other width": lambda features: features.update(test=features["test"][:, :2]),
    "not a number": lambda features: features["train"].fill(np.nan),
    "text": lambda features: features.update(test=np.full((3, 3), "x")),
}


@pytest.mark.parametrize("name", SPOILED)
def test_features_that_do_not_fit_are_one_line(tmp_path: Path, name: str) -> None:
    group = make_group(tmp_path, SPOILED[name])
    with pytest.raises(UserError, match=r"concatenation: .*features\.npz is damaged; delete"):
        fit_ensembles(group, ("concatenation",))


def test_artefacts_without_training_labels_are_one_line(tmp_path: Path) -> None:
    group = make_group(tmp_path, lambda _: None)
    folder = group.store.artefacts(made_record(NAMES[0]).run)
    parts = made_predictions(made_record(NAMES[0]).run)
    write_predictions(folder / PREDICTIONS, {"test": parts["test"]})
    with pytest.raises(UserError, match=r"predictions\.npy is damaged"):
        group.train_labels()
