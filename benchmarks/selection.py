"""Whether choices on validation images, and what is said of them, are right: simulations.

    python benchmarks/selection.py

Six networks with probabilities of eight classes; a hard image is hard for all of them. Their truth
is the score on 20,000 further images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from harness.ensembling.builder import MOST_SEARCHED
from harness.ensembling.cross_fitting import (
    cross_fitted_vote,
    fit_without_each_fold,
    stratified_folds,
)
from harness.ensembling.selection import best_subsets, greedy_selection
from harness.ensembling.stacking import fit_stacking
from harness.ensembling.voting import fit_weights
from harness.evaluation import calibration
from harness.evaluation.metrics import macro_f1, worst_recall_interval
from harness.evaluation.robustness import Group, Robustness
from harness.evaluation.significance import paired
from harness.evaluation.voting import soft_vote
from harness.reporting.findings import NEGLIGIBLE

CLASSES, MEMBERS, TRUTH = 8, 6, 20_000
assert MEMBERS <= MOST_SEARCHED
Part = tuple[np.ndarray, np.ndarray]
"""Probabilities (m, n, K) and labels (n,)."""


def draw(images: int, skills: np.ndarray, rng: np.random.Generator) -> Part:
    labels = rng.integers(0, CLASSES, images)
    logits = rng.normal(0, 1, (images, CLASSES)) + rng.normal(0, 1, (len(skills), images, CLASSES))
    logits += skills[:, None, None] * np.eye(CLASSES)[labels]
    return calibration.softmax(logits).astype(np.float32), labels


def f1(part: np.ndarray, labels: np.ndarray) -> float:
    return 100 * macro_f1(labels, part.argmax(axis=1), CLASSES)


# --- rules ---------------------------------------------------------------------------------------


def fit_rules(validation: Part, seed: int) -> dict[str, tuple[Callable, np.ndarray]]:  # type: ignore[type-arg]
    """Of each rule: what predicts new images, and its predictions of unseen validation images."""
    votes, labels = validation
    folds = stratified_folds(labels, seed)
    weights = {
        "weighted vote": fit_without_each_fold(fit_weights, votes, labels, folds),
        "greedy": fit_without_each_fold(greedy_selection, votes, labels, folds),
        "best subset": best_subsets(votes, labels, folds),
    }
    rules = {
        rule: (lambda p, w=w: soft_vote(p, w[0]), cross_fitted_vote(votes, folds, w[1:]))
        for rule, w in weights.items()
    }
    return {
        "soft vote": (soft_vote, soft_vote(votes)),
        **rules,
        "stacking": fit_stacking(votes, labels, folds),
    }


def plain_stacking(validation: Part, test: Part) -> np.ndarray:
    """Probabilities of a regression shrunk towards zero, with the weakest penalty of C to 0.1."""
    from sklearn.linear_model import LogisticRegression

    inputs = [
        calibration.log_probabilities(p).transpose(1, 0, 2).reshape(p.shape[1], -1)
        for p in (validation[0], test[0])
    ]
    mean, sd = inputs[0].mean(axis=0), inputs[0].std(axis=0)
    fitted, new = ((columns - mean) / sd for columns in inputs)
    model, predicted = LogisticRegression(C=0.1, max_iter=500), np.zeros((len(new), CLASSES))
    predicted[:, np.unique(validation[1])] = model.fit(fitted, validation[1]).predict_proba(new)
    return predicted


def rules(images: int, repeats: int) -> None:
    """Scores and choice by the images of the fit, and by those that the fit has not seen."""
    plain: list[tuple[float, float]] = []
    table: dict[str, list[tuple[float, ...]]] = {}
    chosen: dict[str, list[tuple[str, float, float]]] = {"fitted": [], "cross-fitted": []}
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        skills = rng.uniform(1.5, 3, MEMBERS)
        validation, test = draw(images, skills, rng), draw(TRUTH, skills, rng)
        found = {}
        for rule, (predict, unseen) in fit_rules(validation, seed).items():
            seen, truth = predict(validation[0]), predict(test[0])
            scores = f1(seen, validation[1]), f1(unseen, validation[1]), f1(truth, test[1])
            found[rule] = (scores, seen, unseen, truth)
            loss = calibration.log_loss(test[1], truth)
            table.setdefault(rule, []).append((*scores, loss))
        zero = plain_stacking(validation, test)
        plain.append((f1(zero, test[1]), calibration.log_loss(test[1], zero)))
        for i, way in enumerate(chosen):
            best = max(found, key=lambda rule, i=i: found[rule][0][i])  # type: ignore[misc]
            scores, *predicted = found[best]
            temperature = calibration.fit_temperature(predicted[i], validation[1])
            softened = calibration.soften(predicted[2], temperature)
            error = calibration.expected_calibration_error(test[1], softened)
            chosen[way].append((best, scores[2], 100 * error))
    print(
        f"{images} validation images: F1 fitted, cross-fitted, true; log loss; gain over soft vote"
    )
    soft = np.array(table["soft vote"])
    for rule, values in table.items():
        fitted, unseen, truth, loss = np.mean(values, axis=0)
        claimed, true = (np.array(values) - soft).mean(axis=0)[1:3]
        print(
            f"  {rule:14s} {fitted:5.1f} {unseen:5.1f} {truth:5.1f}; {loss:.3f}; "
            f"claimed {claimed:+.1f}, true {true:+.1f}"
        )
    print("  stacking shrunk towards zero: true {:.1f}; {:.3f}".format(*np.mean(plain, axis=0)))
    for way, choices in chosen.items():
        names, scores, errors = zip(*choices, strict=True)
        print(
            f"  chosen {way}: F1 {np.mean(scores):.1f}, calibration error {np.mean(errors):.1f} %:",
            ", ".join(f"{rule} {n}" for rule, n in Counter(names).most_common()),
        )
    distance = (soft[:, 0] - soft[:, 2]).std()
    print(f"  the soft vote chooses nothing: distance to truth sd {distance:.1f}, gain 0")


# --- sentences -----------------------------------------------------------------------------------


def verdicts(images: int, skill: float, repeats: int) -> None:
    """What is said of a member that truly helps, or not: by p alone, and by the interval."""
    skills = np.array([2.5, 2.5, 2.5, skill])
    gains, said = [], Counter[str]()
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        for n in (images, TRUTH) if seed < 5 else (images,):
            votes, labels = draw(n, skills, rng)
            a, b = (soft_vote(some).argmax(axis=1) for some in (votes, votes[:-1]))
            if n == TRUTH:
                gains.append(macro_f1(labels, a, CLASSES) - macro_f1(labels, b, CLASSES))
                continue
            gain = paired(labels, a, b, CLASSES)
            said["no significant loss"] += gain.p >= 0.05
            said["can be dropped"] += gain.p >= 0.05 and gain.high < NEGLIGIBLE
    print(f"a member that adds {100 * np.mean(gains):+.1f} points, {images} images: "
          + ", ".join(f"{what} {100 * n / repeats:.0f} %" for what, n in said.items()))  # fmt: skip


def calibration_error(images: int, sharpness: float) -> None:
    rng = np.random.default_rng(0)
    errors, expected = [], []
    for _ in range(200):
        p = calibration.softmax(rng.normal(0, sharpness, (images, CLASSES)))
        labels = (rng.random((images, 1)) > p.cumsum(axis=1)).sum(axis=1)
        errors.append(calibration.expected_calibration_error(labels, p))
        expected.append(calibration.calibration_error_by_chance(p))
    error, by_chance = 100 * np.mean(errors), 100 * np.mean(expected)
    print(
        f"perfectly calibrated, {images} images, accuracy {p.max(axis=1).mean():.2f}: "
        f"calibration error {error:.2f} %, by chance {by_chance:.2f} %"
    )


def worst_recall(images: int, recalls: list[float]) -> None:
    rng, support = np.random.default_rng(0), np.full(len(recalls), images)
    hits = rng.binomial(support, recalls, (5000, len(recalls)))
    ends = np.array([worst_recall_interval(row, support) for row in hits])
    covered = (ends[:, 0] <= min(recalls)) & (min(recalls) <= ends[:, 1])
    measured = 100 * (hits / images).min(axis=1).mean()
    print(
        f"worst recall {100 * min(recalls):.0f} %, {len(recalls)} classes of {images} images: "
        f"measured {measured:.1f} %, in the interval {100 * covered.mean():.1f} %"
    )


def worst_corruption(truth: list[float], sd: float) -> None:
    """How often one of equally bad corruptions is named, and one that is worse than all others."""
    rng, named = np.random.default_rng(0), 0
    for scores in rng.normal(truth, sd, (5000, len(truth))):
        groups = tuple(Group("", 22, score, sd) for score in scores.tolist())
        named += Robustness(1.0, 1.0, groups, ()).worst is not None
    print(f"corruptions {truth[0]:.2f}, {truth[1]:.2f}, others {truth[2]:.2f}, sd {sd}: "
          f"named in {named / 50:.1f} % of tests")  # fmt: skip


def main() -> None:
    for images, repeats in ((80, 40), (400, 20), (1712, 10)):
        rules(images, repeats)
    for images in (240, 2400):
        for skill in (2.5, 2.1):
            verdicts(images, skill, 200 if images == 240 else 40)
    for images, sharpness in ((240, 1.0), (240, 4.0), (2400, 4.0)):
        calibration_error(images, sharpness)
    for images, recalls in ((30, [0.8] * 8), (30, [0.99] * 8), (20, [0.5, *[0.9] * 7])):
        worst_recall(images, recalls)
    for truth in ([0.6] * 11, [0.3, 0.3, *[0.6] * 9], [0.3, *[0.6] * 10]):
        worst_corruption(truth, 0.1)
        worst_corruption(truth, 0.04)


if __name__ == "__main__":
    main()
