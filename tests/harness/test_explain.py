"""``explain``: which images and networks are shown, and what is said of those that cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.commands.settings import cache_folder
from harness.evaluation.deletion import STEPS, DeletionCurves
from harness.reporting.explanation_sheets import choose
from harness.schema.predictions import Predictions
from harness.storage.records import HEAD_WEIGHTS, Store
from harness.training.explanation import ExplainTask, Explanation
from tests.harness.test_cli import SETTINGS, Cli, make_set, offline, trainer, wbc

__all__ = ("offline", "trainer", "wbc")


@dataclass
class Explainer:
    """Stands in for the child process; its networks predict what the store holds, plus noise."""

    results: Path
    tasks: list[ExplainTask] = field(default_factory=list)
    noise: float = 0.0
    problem: str = ""

    def __call__(self, task: ExplainTask, *_: object) -> Sequence[Explanation | str]:
        self.tasks.append(task)
        *others, last = map(self._explain, task.networks)
        return [*others, self.problem or last]

    def _explain(self, network: Any) -> Explanation:
        test = Store(self.results).predictions(network.run)["test"]
        rows = [test.ids.tolist().index(id_) for id_ in self.tasks[-1].ids]
        curves = np.ones((len(rows), STEPS + 1))
        return Explanation(
            test.probabilities[rows] + np.float32(self.noise),
            np.random.default_rng(0).normal(size=(len(rows), 3, 3)).astype(np.float32),
            DeletionCurves(curves / 4, curves / 2),
        )


@pytest.fixture
def explainer(
    wbc: Cli, tmp_path: Path, trainer: object, offline: None, monkeypatch: pytest.MonkeyPatch
) -> Explainer:
    """With finished runs of two networks, whose weights are there, and their ensembles."""
    (tmp_path / "benchmark.toml").write_text('[data]\nsource = "set.npz"\n' + SETTINGS)
    make_set(tmp_path / "set.npz")
    assert wbc("run", "lite0", "lite1")[0] == 0
    store = Store(tmp_path / "results")
    for record in store.records():
        (store.artefacts(record.run) / HEAD_WEIGHTS).touch()
    stand_in = Explainer(store.root)
    monkeypatch.setattr("harness.commands.explain.explain", stand_in)
    return stand_in


def test_a_sheet_for_each_class_of_two_rows_side_by_side(
    wbc: Cli, tmp_path: Path, explainer: Explainer
) -> None:
    code, out, _ = wbc("explain", "lite0", "lite1", "--per-class", "2", "--out", "sheets")
    assert code == 0
    (task,) = explainer.tasks
    assert [network.run.recipe for network in task.networks] == ["lite0", "lite1"]
    assert len(task.ids) <= 3 * (2 + 2)
    for name in ("lite0", "lite1"):
        assert f"{name}: area under the deletion curve 0.250 hottest pixels first, 0.500" in out
    sheets = sorted((tmp_path / "sheets").iterdir())
    assert [sheet.name for sheet in sheets] == [
        f"lite0-lite1-{k}.png" for k in task_classes(sheets)
    ]
    single = Image.open(sheets[0]).width
    assert wbc("explain", "lite0", "--per-class", "2", "--out", "sheets")[0] == 0
    assert Image.open(tmp_path / "sheets" / sheets[0].name.replace("-lite1", "")).width < single


def task_classes(sheets: Sequence[Path]) -> list[str]:
    return [sheet.stem.removeprefix("lite0-lite1-") for sheet in sheets]


def test_an_ensemble_is_explained_by_its_members(wbc: Cli, explainer: Explainer) -> None:
    assert wbc("ensemble", "lite0", "lite1", "--rule", "soft vote")[0] == 0
    (record,) = Store(explainer.results).ensembles()
    code, out, _ = wbc("explain", record.ensemble.id[:8])
    assert code == 0
    assert [n.run.id for n in explainer.tasks[0].networks] == list(record.ensemble.members)
    assert "lite0: area" in out
    assert "lite1: area" in out


def test_one_test_image_and_no_other(wbc: Cli, explainer: Explainer) -> None:
    store = Store(explainer.results)
    test = store.predictions(store.records()[0].run)["test"]
    assert wbc("explain", "lite0", "--image", str(test.ids[3]), "--without-head")[0] == 0
    assert explainer.tasks[0].ids == (int(test.ids[3]),)
    assert explainer.tasks[0].without_head
    train = next(i for i in range(120) if i not in test.ids)
    code, _, err = wbc("explain", "lite0", "--image", str(train))
    assert code == 2
    assert f"--image {train}: no test image; 'wbc-bench data split' lists them" in err


def test_a_network_that_cannot_be_explained_is_left_out_and_named(
    wbc: Cli, explainer: Explainer
) -> None:
    explainer.problem = "the last feature map of lite1 is one place"
    code, out, _ = wbc("explain", "lite0", "lite1")
    assert code == 0
    assert "lite1: left out: the last feature map of lite1 is one place" in out
    assert "lite1: area" not in out


def test_weights_that_are_missing_or_of_another_run_are_one_line(
    wbc: Cli, explainer: Explainer
) -> None:
    store = Store(explainer.results)
    run = next(r.run for r in store.records() if r.run.recipe == "lite0")
    explainer.noise = 0.1
    code, _, err = wbc("explain", "lite0")
    assert code == 2
    assert f"{run.id}: these weights do not give the stored predictions" in err
    (store.artefacts(run) / HEAD_WEIGHTS).unlink()
    code, _, err = wbc("explain", "lite0")
    assert code == 2
    assert f"{HEAD_WEIGHTS} is missing; delete" in err
    assert "then 'wbc-bench run lite0' as before" in err


def test_names_and_images_that_do_not_fit_are_one_line(
    wbc: Cli, tmp_path: Path, explainer: Explainer
) -> None:
    code, _, err = wbc("explain", "lite9")
    assert code == 2
    assert "unknown row 'lite9'; did you mean 'lite" in err
    code, _, err = wbc("explain", "raw-pixels")
    assert code == 2
    assert "raw-pixels: no network to explain" in err
    make_set(tmp_path / "other.npz", labels=np.arange(120) // 40)
    code, _, err = wbc("explain", "lite0", "--data", "other.npz")
    assert code == 2
    assert "other: not the images of lite0 (set, 120 images at 80 px); say --data SOURCE, wh" in err
    settings = tmp_path / "benchmark.toml"
    settings.write_text(settings.read_text() + "[protocol.head]\nunits = [64]\n")
    assert wbc("run", "lite0")[0] == 0
    code, _, err = wbc("explain", "lite0")
    assert code == 2
    assert "lite0: 2 rows have this name; give an id: " in err
    assert not explainer.tasks


def test_images_are_those_of_the_record_without_saying_so_again(
    wbc: Cli, tmp_path: Path, explainer: Explainer
) -> None:
    settings = tmp_path / "benchmark.toml"
    settings.write_text(settings.read_text().replace("set.npz", "smear@90"))
    (tmp_path / "set.npz").unlink()
    assert wbc("explain", "lite0")[0] == 0
    shutil.rmtree(cache_folder())
    code, _, err = wbc("explain", "lite0")
    assert code == 2
    assert (
        "smear@90: not the images of lite0 (set, 120 images at 80 px); say --data SOURCE, " in err
    )
    assert "where SOURCE is what 'set' was read from" in err


def made_test(right: Sequence[bool], confidence: Sequence[float]) -> Predictions:
    """Of class 1, predicted with some confidence as that or as class 0."""
    probabilities = np.array(
        [[1 - p, p] if ok else [p, 1 - p] for ok, p in zip(right, confidence, strict=True)],
        np.float32,
    )
    count = len(right)
    return Predictions(np.arange(10, 10 + count), np.ones(count, int), probabilities)


def test_the_wrong_images_with_the_most_confidence_are_chosen() -> None:
    test = made_test([True, False, False, True, False], [0.9, 0.6, 0.8, 0.7, 0.7])
    (chosen,) = choose(test, 2)
    assert chosen.wrong == (12, 14)
    assert chosen.right == (10, 13)
    assert (chosen.label, chosen.count, chosen.correct) == (1, 5, 2)
    (only,) = choose(test, 2, [13, 11])
    assert only.ids == (13, 11)
