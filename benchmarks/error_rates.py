"""How often the statements of a leaderboard are true, where the truth is known.

    python benchmarks/error_rates.py [SETS]

Simulated test sets, 200 for each figure unless SETS says otherwise: classes of uneven size and
difficulty, and rows that find the same images difficult. "before" is the rule without what the
name of the table adds to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from unittest import mock

import numpy as np

from harness.evaluation import significance
from harness.evaluation.confidence_set import (
    confidence_set,
    joint_scores,
    selection_bias,
    smallest_difference,
)
from harness.evaluation.metrics import confusion_matrix, macro_f1
from harness.evaluation.significance import bootstrap, holm, interval, paired

SETS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
ALIKE = 0.6
"""Share of images on which all rows are right or wrong together."""


class World:
    """Images of known classes, and classifiers with known chances (K, K) of each prediction."""

    def __init__(self, classes: int, images: int, rng: np.random.Generator) -> None:
        prevalence = rng.dirichlet(np.full(classes, 5.0))
        self.support = np.maximum(1, np.round(prevalence * images)).astype(int)
        self.labels = np.repeat(np.arange(classes), self.support)
        self.rng, self.classes = rng, classes
        self.errors = np.zeros((classes, classes))
        for k in range(classes):
            others = np.arange(classes) != k
            self.errors[k, others] = rng.uniform(0.5, 1.5) * rng.dirichlet(np.ones(classes - 1))

    def chances(self, f1: float) -> np.ndarray:
        """Of a classifier with this true macro F1."""
        low, high = 0.0, 1 / self.errors.sum(axis=1).max()
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.truth(self._at(middle))[0] > f1 else (low, middle)
        return self._at(low)

    def _at(self, rate: float) -> np.ndarray:
        errors = rate * self.errors
        return errors + np.diag(1 - errors.sum(axis=1))

    def truth(self, chances: np.ndarray) -> tuple[float, float]:
        """Macro F1 and accuracy on very many images of these classes."""
        counts = chances * self.support[:, None]
        f1 = significance.f1_scores(np.diag(counts), counts.sum(axis=0), self.support)
        return float(f1.mean()), float(np.trace(counts) / self.support.sum())

    def predictions(self, *rows: np.ndarray) -> list[np.ndarray]:
        """One test set: the predicted classes (n,) of a classifier for each of ``rows``."""
        n, common = len(self.labels), self.rng.random(len(self.labels))
        alike = self.rng.random(n) < ALIKE
        predicted = []
        for chances in rows:
            u = np.where(alike, common, self.rng.random(n))
            right = np.diag(chances)
            errors = chances * (1 - np.eye(self.classes))
            upto = np.cumsum(np.column_stack([right, errors]), axis=1)[self.labels]
            place = np.minimum((u[:, None] > upto).sum(axis=1), self.classes)
            predicted.append(np.where(place == 0, self.labels, place - 1))
        return predicted


def worlds(classes: int, images: int) -> Iterator[World]:
    """One for each test set; a new one every ten."""
    rng = np.random.default_rng(classes * images)
    for i in range(SETS):
        if i % 10 == 0:
            world = World(classes, images, rng)
        yield world


def intervals() -> None:
    print("\n95 % intervals: in how many test sets they hold the truth, in percent")
    print("  classes  images  macro F1     macro F1 (before)     accuracy (before)")
    for classes in (2, 8, 20, 50):
        for images in (60, 240, 2400):
            for f1 in (0.5, 0.7, 0.9, 0.99, 0.999):
                held = [_held(world, f1, i) for i, world in enumerate(worlds(classes, images))]
                now_f1, now_accuracy, then_f1, then_accuracy = 100 * np.mean(held, axis=0)
                print(
                    f"  {classes:7d}  {images:6d}  {f1:8.3f}     {now_f1:8.1f} ({then_f1:6.1f})"
                    f"     {now_accuracy:8.1f} ({then_accuracy:6.1f})"
                )


def _held(world: World, f1: float, seed: int) -> list[bool]:
    """Now and before: a quarter of a pseudo-image a class, no correction for few images."""
    chances = world.chances(f1)
    truth, accuracy = world.truth(chances)
    confusion = confusion_matrix(world.labels, world.predictions(chances)[0], world.classes)
    now = bootstrap(confusion, 1000, seed)
    quarter = mock.patch.object(significance, "PSEUDO_IMAGES", world.classes / 4)
    with quarter, mock.patch.object(significance, "FEW_IMAGES", 0):
        before = bootstrap(confusion, 1000, seed)
    half = 0.5 / len(world.labels)  # An accuracy is a whole number of images.
    held = []
    for samples in (now, before):
        low, high = interval(samples.macro_f1)
        low_accuracy, high_accuracy = interval(samples.accuracy)
        held += [low <= truth <= high, low_accuracy - half <= accuracy <= high_accuracy + half]
    return held


def seeds() -> None:
    print("\nAn option that does nothing: significant in percent of comparisons, 8 classes")
    print("  images  seeds  sd of a seed (points)     with seeds (before: images alone)")
    for images, f1, sd in ((2400, 0.9, 0.013), (240, 0.8, 0.02), (2400, 0.9, 0.005)):
        for count in (1, 2, 3, 5):
            found = []
            for world in worlds(8, images):
                noise = np.clip(f1 + sd * world.rng.standard_normal(2 * count), 0.2, 0.995)
                rows = world.predictions(*map(world.chances, noise))
                sides = np.stack(rows[:count]), np.stack(rows[count:])
                now = paired(world.labels, *sides, 8)
                before = paired(world.labels, *sides, 8, same_networks=True)
                found.append((now.p < 0.05, before.p < 0.05))
            rates = 100 * np.mean(found, axis=0)
            print(
                f"  {images:6d}  {count:5d}  {100 * sd:21.1f}     {rates[0]:10.1f} ({rates[1]:.1f})"
            )


def best() -> None:
    print("\nRows that may be the best, of which half are 3 points worse, 8 classes")
    print(
        "  rows  images  macro F1     a best marked (%)   all of them (%)   marked   worse marked"
    )
    for rows, images, f1 in ((12, 240, 0.75), (36, 240, 0.75), (36, 2400, 0.95), (12, 240, 0.99)):
        counts = []
        for world in worlds(8, images):
            chances = [world.chances(f1), world.chances(f1 - 0.03)]
            y_preds = world.predictions(*(chances[i % 2] for i in range(rows)))
            marked = confidence_set(joint_scores(world.labels, y_preds, 8))
            counts.append((marked[::2].any(), marked[::2].all(), marked.sum(), marked[1::2].sum()))
        one, every, size, worse = np.mean(counts, axis=0)
        print(
            f"  {rows:4d}  {images:6d}  {f1:8.2f}     {100 * one:17.1f}   {100 * every:15.1f}   "
            f"{size:6.1f}   {worse:12.1f}"
        )


def selection() -> None:
    print("\nThe best of 36 equal rows: its interval holds its truth in percent, 8 classes")
    print("  images  macro F1     lowered by the bias (before)   too high by, said (points)")
    for images, f1 in ((240, 0.75), (240, 0.95), (2400, 0.95)):
        results = []
        for i, world in enumerate(worlds(8, images)):
            chances = world.chances(f1)
            y_preds = world.predictions(*[chances] * 36)
            joint = joint_scores(world.labels, y_preds, 8)
            top, truth = int(joint.scores.argmax()), world.truth(chances)[0]
            bias = selection_bias(joint, confidence_set(joint))
            confusion = confusion_matrix(world.labels, y_preds[top], 8)
            low, high = interval(bootstrap(confusion, 1000, i).macro_f1)
            excess = joint.scores.max() - truth
            results.append((low - bias <= truth <= high, low <= truth <= high, excess, bias))
        now, before, excess, bias = 100 * np.mean(results, axis=0)
        print(
            f"  {images:6d}  {f1:8.2f}     {now:19.1f} ({before:.1f})   {excess:12.2f}, {bias:.2f}"
        )


def smallest() -> None:
    print("\nThe smallest difference: two networks that differ by it are told apart, in percent")
    print("  images  macro F1     difference (points)     found")
    for images, f1 in ((240, 0.75), (2400, 0.9), (2400, 0.98)):
        found, said = [], []
        for world in worlds(8, images):
            equal = world.chances(f1)
            y_preds = world.predictions(equal, equal, equal)
            needed = smallest_difference(
                joint_scores(world.labels, y_preds, 8), np.ones(3, dtype=bool)
            )
            better, worse = (world.chances(f1 + sign * needed / 2) for sign in (1, -1))
            a, b = world.predictions(better, worse)
            found.append(paired(world.labels, a, b, 8).p < 0.05)
            said.append(needed)
        share, points = 100 * np.mean(found), 100 * np.mean(said)
        print(f"  {images:6d}  {f1:8.2f}     {points:19.1f}     {share:5.1f}")


def suspects() -> None:
    print("\nTwenty networks as good as the pixel baseline: one or more suspect, in percent")
    counts = []
    for world in worlds(8, 240):
        baseline, *networks = world.predictions(*[world.chances(0.6)] * 21)
        floor = macro_f1(world.labels, baseline, 8)
        p = [
            paired(world.labels, baseline, y_pred, 8).p
            if macro_f1(world.labels, y_pred, 8) < floor
            else 1.0
            for y_pred in networks
        ]
        counts.append((holm(p).min() < 0.05, min(p) < 0.05))
    now, before = 100 * np.mean(counts, axis=0)
    print(f"  corrected for their number {now:.1f} (before {before:.1f})")


if __name__ == "__main__":
    for show in (seeds, best, selection, smallest, suspects, intervals):
        show()
