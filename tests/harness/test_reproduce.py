"""``reproduce``: a report's table beside what was measured, and what is no reproduction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.reporting.publish import read_boards, reproductions_of
from harness.reporting.reproduction import Reproduction, order, reproductions, robustness
from harness.reporting.reproduction_table import sentences, summary
from harness.reports.preset import packaged
from harness.storage.records import Store
from tests.harness.conftest import StandIn
from tests.harness.test_cli import Cli, make_set, offline, trainer, wbc

__all__ = ["offline", "trainer", "wbc"]

FULL = ("--profile", "full", "--results", "out")


@pytest.fixture
def cells(tmp_path: Path) -> str:
    """Eight classes, a hundred images."""
    labels, images = np.arange(800) % 8, np.random.default_rng(0).integers(0, 256, (800, 16, 16, 3))
    return str(make_set(tmp_path / "set.npz", images=images.astype(np.uint8), labels=labels))


@pytest.fixture
def random(tmp_path: Path) -> None:
    (tmp_path / "benchmark.toml").write_text(
        '[weights]\nsource = "random"\n[protocol]\nimage_size = 32\n[sweep]\nseeds = 2\n'
    )


def test_a_table_is_made_once_and_verified(
    wbc: Cli, tmp_path: Path, trainer: StandIn, random: None, cells: str
) -> None:
    code, out, err = wbc("reproduce", "003", "--data", cells, *FULL)
    assert code == 0, err
    assert (
        "8 of 14 rows measured; none is a reproduction, because of random weights, other images"
        in out
    )
    names = ["mobilenet"] * 2 + ["vgg16", "vgg19", "inceptionv3", "resnet50", "efficientnetb0"]
    assert sorted(trainer.launched) == sorted(2 * [*names, "unet"])
    page = (tmp_path / "out" / "003.md").read_text()
    assert "| VGG16, transfer learning" in page
    assert "U-Net classifier" in page
    assert "The report does not say" in page
    scores = pd.read_csv(tmp_path / "out" / "003.csv", dtype={"report": str})
    assert len(scores) == 12 * 3 + 4 + 3
    assert set(scores.report) == {"003"}
    assert scores.measured.dropna().between(0, 1).all()
    assert scores.measured.notna().sum() == 6 * 3 + 4 + 3
    assert "Report 003: Machine Dumbening" in (tmp_path / "out" / "index.html").read_text()
    assert (tmp_path / "out" / "figures" / "report-003" / "reported.svg").exists()
    assert wbc("verify", "--results", "out")[0] == 0
    trainer.launched.clear()
    assert wbc("reproduce", "003/table1", "--data", cells, *FULL)[0] == 0
    assert not trainer.launched
    (tmp_path / "out" / "003.md").write_text(page.replace("VGG16", "VGG61"))
    code, _, err = wbc("verify", "--results", "out")
    assert code == 1
    assert "003.md: not what the records give" in err


def test_the_quick_profile_and_a_list_of_what_is_done(
    wbc: Cli, trainer: StandIn, offline: None, cells: str
) -> None:
    command = ("reproduce", "002/table1", "--data", cells, "--results", "out", "--profile", "quick")
    code, out, err = wbc(*command, "--plan")
    assert code == 0, err
    assert not trainer.launched
    assert "002/table1/Basic model" in out
    code, out, err = wbc(*command)
    assert code == 0, err
    assert "none is a reproduction, because of the quick profile, a subset of the images" in out
    code, out, _ = wbc("reproduce", "--results", "out")
    assert code == 0
    (line,) = (line for line in out.splitlines() if "FORmidable" in line)
    assert line.split()[-3:] == ["5", "5", "0"]


def test_a_table_as_a_settings_file_trains_the_same_runs(
    wbc: Cli, tmp_path: Path, trainer: StandIn, cells: str
) -> None:
    assert wbc("reproduce", "002/table1", "--write", "mine.toml")[0] == 0
    assert wbc("reproduce", "002/table1", "--write", "mine.toml")[0] == 2
    text = (tmp_path / "mine.toml").read_text()
    assert "# Basic model: wbc-bench run basic --config mine.toml\n" in text
    assert "wbc-bench run mnv3heavy --config mine.toml --variant row5\n" in text
    here = ("--data", cells, *FULL)
    code, _, err = wbc("run", "basic", "--config", "mine.toml", *here)
    assert code == 0, err
    assert len(trainer.launched) == 1
    trainer.launched.clear()
    assert wbc("reproduce", "002/table1/basic", *here)[0] == 0
    assert not trainer.launched


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reproduce", "009"), "unknown report '009'; did you mean"),
        (("reproduce", "003/table2"), "did you mean 'table1'?"),
        (("reproduce", "000", "--write", "x.toml"), "several tables: name one of balance"),
        (("reproduce", "--write", "x.toml"), "--write takes one table"),
        (("reproduce", "three.npz"), "three.npz: a preset is a TOML file"),
        (("reproduce", "none.toml"), "none.toml: no such preset"),
        (("reproduce", "002", "--data", "three.npz"), "002 has 8 classes, but three has 3"),
    ],
)
def test_bad_input_is_one_line(
    wbc: Cli, tmp_path: Path, offline: None, words: tuple[str, ...], message: str
) -> None:
    make_set(tmp_path / "three.npz")
    code, _, err = wbc(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def reproduced(wbc: Cli, tmp_path: Path, trainer: StandIn, cells: str) -> Reproduction:
    """Report 002's scratch networks on data that counts as the report's."""
    recipes = ("basic", "mnv3light", "mnv3heavy")
    code, _, err = wbc(
        "reproduce", *(f"002/table1/{name}" for name in recipes), "--data", cells, *FULL
    )
    assert code == 0, err
    records = Store(tmp_path / "out").records()
    store = Store(tmp_path / "out")
    (found,) = reproductions_of(store, read_boards(store.root))
    assert not any(row.reproduced for row in found.rows)
    weights = packaged()["004"].class_weights
    changes = {"images": 800, "class_weights": weights}
    report = packaged()["002"].model_copy(update=changes)
    parts = {record.run.id: store.load_verified(record) for record in records}
    (found,) = reproductions({"002": report}, records, parts)
    return found


def test_a_reproduction_says_what_agrees(reproduced: Reproduction) -> None:
    """The stand-in's networks are far worse than the reported ones, and are in no order."""
    assert [row.reproduced for row in reproduced.rows] == [True, False, True, True, True]
    assert "4 of 5 rows measured, 4 of them a reproduction" in summary(reproduced)
    assert "Measured lower than reported, outside the interval: Basic model (-" in sentences(
        reproduced, "table1"
    )
    correlation = order(reproduced.lines())
    assert correlation is not None
    assert correlation.rows == 4
    assert -1 <= correlation.value <= 1
    other = robustness([reproduced])
    assert other is not None
    assert other.rows == 4
    lines = reproduced.lines("table1")
    assert all(line.inside is False for line in lines if line.average)
    assert [(line.images, line.weight) for line in reproduced.class_lines] == [(100, 1.0)] * 8


def test_the_weights_of_report_004_are_those_of_the_cells_without_six_copies() -> None:
    reported = packaged()["004"]
    counts = (851, 2179, 1085, 2023, 849, 993, 2330, 1643)
    lines = Reproduction("004", reported, (), counts).class_lines
    assert [round(line.weight, 4) for line in lines] == [c.weight for c in reported.class_weights]
