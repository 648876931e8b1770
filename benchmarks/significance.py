"""Duration of every function of the statistics in harness.evaluation, in ms.

    python benchmarks/significance.py

Eight classes and 3,421 images as in BloodMNIST's test set; tables of 16 and of 100 rows whose
predictions agree as those of real networks do, from nearly perfect to poor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from harness.evaluation import calibration, confidence_set, significance
from harness.evaluation.metrics import confusion_matrix, macro_f1

TOTALS = (244, 624, 311, 579, 243, 284, 666, 470)
CLASSES = len(TOTALS)


def milliseconds(work: Callable[[], object], times: int = 5) -> float:
    """The shortest of a few calls."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return 1000 * min(durations)


def table(rows: int, labels: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Probabilities (n, K) of each row, best first; a hard image is hard for all of them."""
    rng = np.random.default_rng(seed)
    shape = (len(labels), CLASSES)
    common = rng.gumbel(size=shape)
    return [
        calibration.softmax(
            skill * np.eye(CLASSES)[labels] + 0.8 * common + 0.6 * rng.gumbel(size=shape)
        )
        for skill in np.linspace(7, 3, rows)
    ]


def show(name: str, work: Callable[[], object], times: int = 5) -> None:
    print(f"  {name:44s} {milliseconds(work, times):9.2f} ms")


def main() -> None:
    labels = np.repeat(np.arange(CLASSES), TOTALS)
    n = len(labels)
    probabilities = table(2, labels)[0]
    a, b = table(16, labels)[:2]
    y_pred, other = a.argmax(axis=1), b.argmax(axis=1)
    confusion = confusion_matrix(labels, y_pred, CLASSES)
    samples = significance.bootstrap(confusion)
    print(f"one row or pair, {n:,} images, macro F1 {macro_f1(labels, y_pred, CLASSES):.3f}")
    show("bootstrap, 10,000 resamples", lambda: significance.bootstrap(confusion))
    show("interval", lambda: significance.interval(samples.macro_f1))
    show("mcnemar", lambda: significance.mcnemar(labels, y_pred, other))
    show("paired", lambda: significance.paired(labels, y_pred, other, CLASSES))
    show("fit_temperature", lambda: calibration.fit_temperature(probabilities, labels))
    show("soften", lambda: calibration.soften(probabilities, 1.5))
    show("reliability", lambda: calibration.reliability(labels, probabilities))
    show("brier", lambda: calibration.brier(labels, probabilities))
    show("log_loss", lambda: calibration.log_loss(labels, probabilities))
    show("flag", lambda: calibration.flag(labels, probabilities))
    for rows in (16, 100):
        y_preds = [row.argmax(axis=1) for row in table(rows, labels)]
        scores = [macro_f1(labels, y_pred, CLASSES) for y_pred in y_preds]
        joint = confidence_set.joint_scores(labels, y_preds, CLASSES)
        best = confidence_set.confidence_set(joint)
        print(f"{rows} rows, macro F1 {scores[0]:.3f} to {scores[-1]:.3f}, best: {best.sum()}")
        bind = partial(partial, labels=labels, y_preds=y_preds, classes=CLASSES)
        points = np.random.default_rng(0).random((rows, 2))
        show("joint_scores", bind(confidence_set.joint_scores))
        show("confidence_set", partial(confidence_set.confidence_set, joint))
        show("diversity", bind(significance.diversity))
        count = rows * (rows - 1) // 2
        show(f"holm of {count}", partial(significance.holm, np.linspace(0, 1, count)))
        show("pareto", partial(significance.pareto, points))


if __name__ == "__main__":
    main()
