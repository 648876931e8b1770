"""``--budget``: on as many images as fit the time, test images first, and the same board again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.commands.budget import FEWEST, largest_subset
from harness.schema.dataset import DataSummary, Subset
from harness.storage.records import Store
from tests.harness.conftest import StandIn
from tests.harness.test_cli import SETTINGS, Cli, make_set, offline, trainer, wbc

__all__ = ["offline", "trainer", "wbc"]

WHOLE = DataSummary(
    name="made-up", images=10_000, image_size=96, class_names=tuple("abcdefgh"), train=7_000,
    validation=1_000, test=2_000,
)  # fmt: skip


def cost(subset: Subset) -> int:
    return 10 * subset.train + subset.validation + 2 * subset.test


@given(st.integers(0, 80_000))
def test_the_largest_subset_fits_and_has_the_most_test_images(budget: int) -> None:
    chosen = largest_subset(WHOLE, lambda subset: cost(subset) <= budget)
    fewest = Subset(train=8 * FEWEST, validation=2 * FEWEST, test=2 * FEWEST)
    if budget < cost(fewest):
        assert chosen == fewest
        return
    assert cost(chosen) <= budget
    # What rounding has left of the test images' share goes to training.
    assert chosen.test == WHOLE.test or chosen.train < 1.5 * fewest.train
    if chosen.test < WHOLE.test:  # Rounded to two digits.
        more = round(1.1 * chosen.test + 1)
        assert cost(Subset(train=8 * FEWEST, validation=80, test=more)) > budget
    elif chosen.train < WHOLE.train:
        more = round(1.1 * chosen.train + 1)
        assert cost(Subset(train=more, validation=more // 7 + 1, test=chosen.test)) > budget


def test_a_run_with_a_budget_says_what_it_can_show_and_goes_on_with_its_board(
    wbc: Cli,
    tmp_path: Path,
    trainer: StandIn,
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.sweep.estimates.cores", lambda: 2)
    (tmp_path / "benchmark.toml").write_text(SETTINGS)
    images = np.random.default_rng(0).integers(0, 256, (1200, 16, 16, 3), dtype=np.uint8)
    data = str(make_set(tmp_path / "set.npz", images=images, labels=np.arange(1200) % 3))

    code, out, _ = wbc("plan", "vgg16", "--data", data, "--budget", "70s")
    assert code == 0
    sizes = re.search(r"budget: (\d+) of 840 training, (\d+) of 120 .* (\d+) of 240 test", out)
    assert sizes is not None
    train, _, test = map(int, sizes.groups())
    assert 3 * FEWEST <= train < 840
    assert test == 240
    assert "of macro F1" in out
    total = re.search(r"about (?:(\d+) min )?(\d+) s in all", out)
    assert total is not None
    assert 60 * int(total[1] or 0) + int(total[2]) <= 70

    assert wbc("run", "vgg16", "--data", data, "--budget", "70s")[0] == 0
    # The second command has two runs, one of them done: the rest fits, on the same images.
    assert wbc("run", "vgg16", "mn2", "--data", data, "--budget", "70s")[0] == 0
    splits = {record.run.split for record in Store(tmp_path / "results").records()}
    assert [split.subset.train for split in splits if split.subset] == [train]
    assert sorted(trainer.launched) == ["mobilenetv2", "vgg16"]
    # A budget for everything is the run without one.
    _, out, _ = wbc("plan", "lite0", "--data", data, "--budget", "9h", "--results", "other")
    assert "840 of 840 training" in out
