"""``tune``: from the search to the winner on its board, with a stand-in for the processes."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness.tuning.objective
from harness.data.image_cache import open_dataset
from harness.data.splitting import split_indices
from harness.schema.run import Job
from harness.storage.files import write_arrays
from harness.storage.records import FEATURES, Store
from tests.harness.conftest import StandIn
from tests.harness.test_cli import Cli, make_set, offline, trainer, wbc

__all__ = ["offline", "trainer", "wbc"]

SETTINGS = """
[data]
source = "set.npz"
[protocol]
image_size = 32
[protocol.frozen]
epochs = 2
[profile.quick.split]
subset = false
[tune]
layers = [1]
units = [4, 8]
batch_norm = []
dropout = [0.0, 0.2]
"""


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of trials, which a stand-in for their process has done."""
    jobs: list[Job] = []

    def run_task(module: str, job: Job, *_: Any) -> tuple[dict[str, Any], str]:
        jobs.append(job)
        data = open_dataset(Path(job.data))
        parts = split_indices(job.run.split, data)
        rng = np.random.default_rng(0)
        features = {
            part: rng.normal(size=(len(getattr(parts, part)), 5)).astype(np.float32)
            for part in ("train", "validation")
        }
        write_arrays(Path(job.output) / FEATURES, features)
        return {"macro_f1": job.run.protocol.frozen.batch_size / 1000, "log_loss": 1.0}, ""

    monkeypatch.setattr(harness.tuning.objective, "run_task", run_task)
    return jobs


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], None]:
    make_set(tmp_path / "set.npz")
    return lambda more: (tmp_path / "benchmark.toml").write_text(SETTINGS + more) and None


def test_the_winner_is_a_variant_that_is_trained_once(
    wbc: Cli, tmp_path: Path, trainer: StandIn, trials: list[Job], settings: Any, offline: None
) -> None:
    settings("")
    code, _, err = wbc("tune", "lite0", "--trials", "6")
    assert code == 0, err
    assert len(trials) == 1, "features are computed once"
    assert trials[0].shifted is None
    assert trainer.launched == ["lite0"]
    (record,) = Store(tmp_path / "results").records()
    assert record.note.endswith("the best of 6 trials of Bayesian search (TPE)")
    page = (tmp_path / "results" / "LEADERBOARD.md").read_text()
    assert f"† {record.note[0].upper()}{record.note[1:]}." in page
    (variant,) = (tmp_path / "results" / "tuning").glob("lite0-*.toml")
    assert variant.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    # Pasted into the settings file the variant is the run that is done.
    settings(variant.read_text())
    assert "1 done, 1 pending" in wbc("plan", "lite0", "--variant", "tuned-lite0")[1]
    # More trials: the same winner, or another one, says how many there were.
    settings("")
    assert wbc("tune", "lite0", "--trials", "8")[0] == 0
    assert len(trials) == 1
    notes = [record.note for record in Store(tmp_path / "results").records()]
    assert sum("8 trials" in note for note in notes) == 1


def test_what_changes_features_trains_each_trial(
    wbc: Cli, tmp_path: Path, trainer: StandIn, trials: list[Job], settings: Any, offline: None
) -> None:
    more = 'policy = ["none", "traditional"]\nlearning_rate = []\nbatch_size = [16, 32]\n'
    settings(more.replace("batch_norm", "") + "[profile.quick.tune]\nunits = [4]\ndropout = []\n")
    code, out, err = wbc("tune", "lite0", "--method", "grid")
    assert code == 0, err
    assert "at most 4 trials, each of which trains the network" in out
    assert len(trials) == 4
    assert len({job.run.id for job in trials}) == 4
    assert sum(job.epochs is not None for job in trials) == 2
    assert not any(Path(job.output).exists() for job in trials)
    (variant,) = (tmp_path / "results" / "tuning").glob("*.toml")
    table = tomllib.loads(variant.read_text())["variants"]["tuned-lite0"]
    assert table["frozen"] == {"batch_size": 32}


@pytest.mark.parametrize(
    ("more", "words", "message"),
    [
        ("unit = [3]", (), "unknown key 'tune.unit'; did you mean 'units'?"),
        ("policy = ['cutmux']", (), "did you mean 'cutmix'"),
        ("unfreeze = [0.5]", (), "tune.unfreeze has values to try, but the network has no"),
        ("", ("--method", "grid", "--trials", "3"), "the grid has more than 3 combinations"),
        ("", ("--method", "bays"), "'bays' is not one of 'random', 'grid', 'bayes'"),
        ("", ("--budget", "0s"), "no trial has finished: give a longer --budget"),
    ],
)
def test_bad_input_is_one_line(
    wbc: Cli, trials: list[Job], settings: Any, offline: None, more: str, words: Any, message: str
) -> None:
    settings(more)
    code, _, err = wbc("tune", "lite0", *words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_without_optuna(wbc: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else find(name)
    )
    assert wbc("tune", "lite0")[::2] == (
        2, "wbc-bench: tune needs Optuna: pip install 'optuna>=5'\n",
    )  # fmt: skip
