"""How several networks become one answer: rules on stored probabilities and features.

Every rule is fitted on validation (concatenation on training) arrays alone: no function that fits
ever sees a test image. Probabilities are (m, n, K): members, images, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from harness.evaluation.calibration import softmax
from harness.evaluation.metrics import confusion_matrix, cross_entropy, macro_f1
from harness.evaluation.significance import f1_scores
from harness.schema.protocol import Protocol
from harness.training.head import HeadLearner
from harness.training.loop import learn

ROUNDS = 40
"""Draws of the greedy selection; its best beginning is what counts."""
STEPS = 500
"""Of the fit of voting weights; it is concave and has long settled by then."""
STRENGTHS = (0.001, 0.01, 0.1)
"""Inverse penalties that stacking chooses from."""
BLOCK_BITS = 7
"""Subsets are scored 2**7 at a time: a block of half sums that fits the cache."""


def soft_vote(
    probabilities: np.ndarray, weights: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """The mean of the members' probabilities, (m, n, K) -> (n, K), weighted if told."""
    members = len(probabilities)
    shares = np.full(members, 1 / members) if weights is None else np.asarray(weights, float)
    return np.einsum("m,mnk->nk", shares / shares.sum(), probabilities.astype(np.float64))


def fit_weights(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Voting weights (m,) on the simplex with the least log loss on these images.

    The likelihood of a mixture is concave in its weights, and expectation-maximisation climbs it
    without a step size (Dempster, Laird and Rubin 1977).
    """
    right = probabilities[:, np.arange(len(labels)), labels].astype(np.float64)
    right = np.clip(right, 1e-7, 1.0)
    weights = np.full(len(right), 1 / len(right))
    for _ in range(STEPS):
        mixture = weights @ right
        weights = weights * (right / mixture).mean(axis=1)
    return weights / weights.sum()


def greedy(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (m,) by forward selection with replacement (Caruana et al. 2004).

    Begins with the best member and adds, round after round, the member that helps macro F1 most
    (log loss among equals); the best beginning of that walk is returned, so it never falls below
    the best member on these images.
    """
    members, _, classes = probabilities.shape
    targets = np.eye(classes)[labels]

    def worth(total: np.ndarray, count: int) -> tuple[float, float]:
        mean = total / count
        f1 = macro_f1(labels, mean.argmax(axis=1), classes)
        return round(f1, 12), -cross_entropy(targets, mean)

    counts, total = np.zeros(members, int), np.zeros(probabilities.shape[1:])
    best, best_counts = (-1.0, -np.inf), counts
    for size in range(1, ROUNDS + 1):
        scores = [worth(total + member, size) for member in probabilities]
        chosen = max(range(members), key=lambda j: scores[j])
        counts[chosen] += 1
        total = total + probabilities[chosen]
        if scores[chosen] > best:
            best, best_counts = scores[chosen], counts.copy()
    return best_counts


def best_subset(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The subset (m,) bool whose soft vote has the best macro F1 on these images, of all subsets.

    Among equals the smaller wins, then the one whose first members come first. Scores 65,535
    subsets of 16 members in seconds: an image whose members all guess alike is counted once for
    every subset, and for the others sums of half the members are made once and added up.
    """
    members, _, classes = probabilities.shape
    guesses = probabilities.argmax(axis=2)
    alike = (guesses == guesses[0]).all(axis=0)
    settled = confusion_matrix(labels[alike], guesses[0, alike], classes)
    # (K, n) per member: the largest class is then found by comparing whole rows.
    tables = probabilities[:, ~alike].transpose(0, 2, 1).astype(np.float32, order="C")
    low_count = min(BLOCK_BITS, members)
    low = _all_sums(tables[:low_count])
    high = _all_sums(tables[low_count:])
    open_labels = labels[~alike].astype(np.int64)

    def best_of_block(h: int) -> tuple[float, tuple[int, int], int]:
        """The best score of the subsets with these upper bits, and the first of its equals."""
        scores = _scores(low + high[h], open_labels, settled)
        if h == 0:
            scores[0] = -1.0  # nobody votes
        top = float(scores.max())
        indices = [h << low_count | int(at) for at in np.flatnonzero(scores >= top - 1e-12)]
        key, index = max(((-i.bit_count(), -_reversed_bits(i, members)), i) for i in indices)
        return round(top, 12), key, index

    with ThreadPoolExecutor() as pool:
        *_, index = max(pool.map(best_of_block, range(len(high))))
    return np.array([bool(index >> j & 1) for j in range(members)])


def _reversed_bits(index: int, members: int) -> int:
    """Smaller when the chosen members come earlier."""
    return sum(1 << j for j in range(members) if index >> j & 1)


def _all_sums(tables: np.ndarray) -> np.ndarray:
    """(m, K, n) -> (2**m, K, n): the sum over every subset, by the bits of its index."""
    sums = np.zeros((1, *tables.shape[1:]), np.float32)
    for table in tables:
        sums = np.concatenate([sums, sums + table])
    return sums


def _scores(sums: np.ndarray, labels: np.ndarray, settled: np.ndarray) -> np.ndarray:
    """Macro F1 (s,) of the guesses behind sums (s, K, n), and of images settled before (K, K)."""
    subsets, classes, count = sums.shape
    largest, guess = sums[:, 0].copy(), np.zeros((subsets, count), np.int16)
    for k in range(1, classes):
        larger = sums[:, k] > largest
        np.copyto(largest, sums[:, k], where=larger)
        np.copyto(guess, k, where=larger)
    offset = np.arange(subsets)[:, None] * classes**2
    cells = offset + labels.astype(np.int64) * classes + guess
    confusion = np.bincount(cells.ravel(), minlength=subsets * classes**2)
    confusion = confusion.reshape(subsets, classes, classes) + settled
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    return f1_scores(hit, confusion.sum(axis=1), confusion.sum(axis=2)).mean(axis=1)


def stack(probabilities: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A multinomial regression on the members' log probabilities, L2-regularised (Wolpert 1992).

    The columns are standardised first; the strength is chosen by cross-validation on these
    images. Gives what predicts (m, n, K) -> (n, K).
    """
    columns, classes = _log_columns(probabilities), probabilities.shape[2]
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    deviation[deviation == 0] = 1.0

    def standard(given: np.ndarray) -> np.ndarray:
        return (_log_columns(given) - mean) / deviation

    columns, targets = standard(probabilities), np.eye(classes)[labels]
    fold = _folds(labels)

    def worth(strength: float) -> float:
        losses = []
        for k in range(int(fold.max()) + 1):
            learn_from = fold != k
            weights = regress(columns[learn_from], targets[learn_from], strength)
            guess = softmax(with_ones(columns[~learn_from]) @ weights)
            losses.append(cross_entropy(targets[~learn_from], guess))
        return -sum(losses)

    weights = regress(columns, targets, max(STRENGTHS, key=worth))
    return lambda given: softmax(with_ones(standard(given)) @ weights)


def _folds(labels: np.ndarray) -> np.ndarray:
    """Which of at most three folds each image is in, every class spread evenly, from a seed."""
    count = max(2, min(3, int(np.bincount(labels)[np.unique(labels)].min())))
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), int)
    fold[order] = np.arange(len(labels)) % count
    return fold


def regress(columns: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    """Weights (d + 1, K) of a multinomial regression of targets (n, K) on columns (n, d).

    The least log loss, summed and times ``strength``, plus half the squared weights; the last
    row, the intercepts, is free of that penalty. scikit-learn's LogisticRegression with C.
    """
    from scipy.optimize import minimize

    inputs, shape = with_ones(columns), (columns.shape[1] + 1, targets.shape[1])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logits = inputs @ weights
        top = logits.max(axis=1, keepdims=True)
        powers = np.exp(logits - top)
        total = powers.sum(axis=1, keepdims=True)
        told = float((np.log(total) + top).sum() - (targets * logits).sum())
        slope = inputs.T @ (powers / total - targets) * strength
        slope[:-1] += weights[:-1]
        return strength * told + 0.5 * float((weights[:-1] ** 2).sum()), slope.ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B",
                     options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-6})  # fmt: skip
    return np.asarray(found.x).reshape(shape)


def with_ones(columns: np.ndarray) -> np.ndarray:
    """(n, d) -> (n, d + 1), the last column for the intercept."""
    return np.hstack([columns, np.ones((len(columns), 1))])


def _log_columns(probabilities: np.ndarray) -> np.ndarray:
    """(m, n, K) -> (n, m K) of log probabilities."""
    logs = np.log(np.clip(probabilities, 1e-7, 1.0))
    return logs.transpose(1, 0, 2).reshape(probabilities.shape[1], -1)


@dataclass(frozen=True)
class TrainingSide:
    """What concatenation may learn from: features of all members side by side, and targets."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]


def concatenate(
    side: TrainingSide, protocol: Protocol, seed: int, widths: Sequence[int]
) -> HeadLearner:
    """The protocol's head, trained on the members' concatenated features as in the frozen phase.

    ``widths``: of each member's features, which are standardised as there. Early stopping watches
    the validation images.
    """
    learner = HeadLearner(
        (protocol.head, protocol.loss, protocol.frozen.optimizer),
        side.train,
        side.validation[0],
        seed,
        widths,
    )
    labels = (side.train[1], side.validation[1])
    learn(learner, "frozen", protocol.frozen, labels, seed)
    return learner
