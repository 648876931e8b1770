"""The sheet of a policy: one row a class, captions where labels are mixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.augmentation.preview import SIDE, label_shares, policies_preview, policy_preview
from harness.cli import cli
from harness.config import augmentation_named
from harness.errors import DataError
from harness.schema.dataset import Dataset


@pytest.mark.parametrize("policy", ["none", "randaugment", "mixup+cutmix", "report-001"])
def test_it_is_drawn_and_is_the_same_again(smear: Dataset, tmp_path: Path, policy: str) -> None:
    for name in ("one.png", "two.png"):
        policy_preview(smear, augmentation_named(policy), tmp_path / name, versions=4)
    one = np.asarray(Image.open(tmp_path / "one.png"))
    np.testing.assert_array_equal(one, np.asarray(Image.open(tmp_path / "two.png")))
    assert one.shape[0] > 8 * SIDE
    assert one.shape[1] > 5 * SIDE


def test_several_policies_on_the_same_images(smear: Dataset, tmp_path: Path) -> None:
    both = {name: augmentation_named(name) for name in ("none", "mixup+cutmix")}
    policies_preview(smear, both, tmp_path / "both.png")
    sheet = np.asarray(Image.open(tmp_path / "both.png").convert("L"), int)
    repeated = [y for y in range(SIDE, 2 * SIDE)
                if (sheet[120:200, 200:] == sheet[120 + y : 200 + y, 200:]).all()]  # fmt: skip
    assert repeated, "without augmentation the row is that of the originals"


def test_shares_are_written_unless_the_own_class_has_it_all() -> None:
    names = ("a", "b", "c")
    assert label_shares(np.array([1.0, 0, 0]), 0, names) == ()
    assert label_shares(np.array([0.3, 0.7, 0]), 0, names) == ("70 % b", "30 % a")
    # Wholly another class, which the row's label does not say.
    assert label_shares(np.array([0.0, 1, 0]), 0, names) == ("100 % b",)


def test_a_place_that_cannot_be_written(smear: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        policy_preview(smear, augmentation_named("noise"), tmp_path / "file" / "x.png", versions=1)


def test_the_subcommand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBC_BENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "policy.png"
    result = CliRunner().invoke(
        cli, ["data", "preview", "smear@100", "--policy", "augmix", "--out", str(out)],
        standalone_mode=False,
    )  # fmt: skip
    assert result.exception is None
    assert out.exists()
