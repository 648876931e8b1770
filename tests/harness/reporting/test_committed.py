"""What is committed under results/ is what its predictions give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.commands.verify import verify

RESULTS = Path(__file__).parents[3] / "results"


@pytest.mark.slow
def test_the_study_of_augmentation_is_true(tmp_path: Path) -> None:
    """Its figures and its page are not committed: `wbc-bench leaderboard` draws them."""
    study = tmp_path / "augmentation"
    drawn = shutil.ignore_patterns("figures", "index.html", "artefacts")
    shutil.copytree(RESULTS / "augmentation", study, ignore=drawn)
    wrong = [line.split(":")[0] for line in verify(study)]
    assert wrong, "the page and the figures are missing"
    assert {Path(path).suffix for path in wrong} == {".svg", ".png", ".html"}
    shutil.copyfile(study / "leaderboard.csv", study / "LEADERBOARD.md")
    assert str(study / "LEADERBOARD.md") in [line.split(":")[0] for line in verify(study)]
