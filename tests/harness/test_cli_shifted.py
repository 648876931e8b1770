"""Subcommands with the shifted test and with splits."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import harness.execution.processes
from harness.execution.processes import ProcessResult
from harness.schema.events import Event
from harness.schema.run import Job
from tests.harness.conftest import StandIn
from tests.harness.test_cli import SETTINGS, Cli, make_set, wbc

__all__ = ["wbc"]


class NotesShifted(StandIn):
    """A stand-in that notes the file of corrupted test images of each job."""

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        self.launched.append(job.shifted or "")
        return super().__call__(job, environment, report)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    stand_in = NotesShifted()
    monkeypatch.setattr(harness.execution.processes, "WorkerProcess", lambda **limits: stand_in)
    return stand_in.launched


@pytest.mark.parametrize(
    ("words", "rows"), [((), 1), (("--shift", "full"), 55), (("--shift", "none"), 0)]
)
def test_the_copy_is_made_once_for_all_workers(
    wbc: Cli, tmp_path: Path, launched: list[str], words: tuple[str, ...], rows: int
) -> None:
    (tmp_path / "benchmark.toml").write_text('[data]\nsource = "set.npz"\n' + SETTINGS)
    make_set(tmp_path / "set.npz")
    assert wbc("run", "vgg16", "mobilenet", "--seeds", "2", *words)[0] == 0
    files = set(launched[::2])
    assert len(launched) == 8
    assert len(files) == 1
    (file,) = files
    assert len(list((tmp_path / "cache").rglob("shifted.npy"))) == (rows > 0)
    if rows:
        copy = np.load(file, mmap_mode="r")
        assert copy.shape == (rows * 24, 80, 80, 3)


def test_the_shift_is_a_setting_and_changes_no_run(
    wbc: Cli, tmp_path: Path, launched: list[str]
) -> None:
    """What was run without it is done, and is not run again to have it."""
    make_set(tmp_path / "set.npz")
    settings = '[data]\nsource = "set.npz"\n[sweep]\nshift = "none"\n' + SETTINGS
    (tmp_path / "benchmark.toml").write_text(settings)
    assert wbc("run", "vgg16")[0] == 0
    assert launched[0] == ""
    code, out, _ = wbc("run", "vgg16", "--shift", "mixed")
    assert code == 0
    assert "1 done, 0 pending" in out
    assert len(launched) == 2


def test_an_unknown_shift(wbc: Cli, tmp_path: Path) -> None:
    code, _, err = wbc("run", "vgg16", "--shift", "some")
    assert code == 2
    assert "'none', 'mixed', 'full'" in err
    (tmp_path / "benchmark.toml").write_text('[sweep]\nshift = "some"\n')
    code, _, err = wbc("run", "vgg16")
    assert code == 2
    assert "sweep.shift" in err


def test_preview_shows_the_shifts(wbc: Cli, tmp_path: Path) -> None:
    make_set(tmp_path / "set.npz")
    assert wbc("data", "preview", "set.npz", "--shift", "--out", "shift.png")[0] == 0
    first = (tmp_path / "shift.png").read_bytes()
    width, height = Image.open(tmp_path / "shift.png").size
    assert width > 3 * 6 * 80
    assert height > 11 * 80
    assert wbc("data", "preview", "set.npz", "--shift", "--out", "shift.png")[0] == 0
    assert (tmp_path / "shift.png").read_bytes() == first
    code, _, err = wbc("data", "preview", "set.npz", "--shift", "--out", "set.npz/x.png")
    assert code == 2
    assert "the preview cannot be written" in err


def test_a_split_is_written_out(wbc: Cli, tmp_path: Path) -> None:
    make_set(tmp_path / "set.npz")
    (tmp_path / "benchmark.toml").write_text(
        "[split]\ncounts = [60, 12, 30]\nbalanced_test = true\n" + SETTINGS
    )
    code, out, _ = wbc("data", "split", "set.npz", "--out", "split.csv")
    assert code == 0
    assert out == "split.csv: 60 training, 12 validation, 30 test images of 120\n"
    rows = list(csv.DictReader((tmp_path / "split.csv").open()))
    test = [int(row["index"]) % 3 for row in rows if row["part"] == "test"]
    assert np.bincount(test).tolist() == [10, 10, 10]
    assert sum(row["part"] == "unused" for row in rows) == 18
    code, _, err = wbc("data", "split", "set.npz", "--out", "set.npz/split.csv")
    assert code == 2
    assert err == "wbc-bench: set.npz: is a file, where a folder is needed\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('ratios = "72/8"', 'split.ratios: ratios must be three numbers, or percents as in "72/8'),
        ("folds = 5\nfold = 5", "folds must be 2 or more, and fold one of 0 to folds - 1"),
        ("counts = [900, 90, 90]", "asks for 1,080 images, but there are 120"),
        ("foldss = 5", "unknown key 'split.foldss'; did you mean 'folds'?"),
    ],
)
def test_an_invalid_split(wbc: Cli, tmp_path: Path, line: str, said: str) -> None:
    make_set(tmp_path / "set.npz")
    (tmp_path / "benchmark.toml").write_text(f"[split]\n{line}\n{SETTINGS}")
    code, _, err = wbc("data", "split", "set.npz")
    assert code == 2
    assert said in err
