"""Statistics against scikit-learn, statsmodels, hand, and worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from harness.evaluation.metrics import macro_f1
from harness.evaluation.significance import (
    bootstrap,
    diversity,
    holm,
    interval,
    mcnemar,
    paired,
    pareto,
    split_spread,
)

PREVALENCE = np.array([852, 2181, 1085, 2026, 849, 993, 2330, 1643]) / 11_959
CLASSES = len(PREVALENCE)


# --- worlds: the chances of every y_pred are known, and so are the true scores -------------------


def totals_of(images: int) -> np.ndarray:
    return np.maximum(1, np.round(PREVALENCE * images)).astype(int)


def world(target: float, rng: np.random.Generator) -> np.ndarray:
    """Chances (K, K) of each prediction given the class, uneven, with this true macro F1."""
    wrong = np.zeros((CLASSES, CLASSES))
    for k in range(CLASSES):
        others = np.arange(CLASSES) != k
        wrong[k, others] = rng.uniform(0.3, 1.7) * rng.dirichlet(np.full(CLASSES - 1, 0.5))

    def at(rate: float) -> np.ndarray:
        return rate * wrong + np.diag(1 - rate * wrong.sum(axis=1))

    low, high = 0.0, 0.55
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if truth(at(middle)) > target else (low, middle)
    return at(low)


def truth(chances: np.ndarray) -> float:
    """The macro F1 of a classifier with these chances on very many images."""
    confusion = chances * PREVALENCE[:, None]
    f1 = 2 * np.diag(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1))
    return float(f1.mean())


def two_worlds(targets: tuple[float, float], same: float, rng: np.random.Generator) -> np.ndarray:
    """Chances (K, K, K) of a's and b's prediction; on a share ``same`` of images they agree."""
    a, b = world(targets[0], rng), world(targets[1], rng)
    alike = np.einsum("ka,ab->kab", (a + b) / 2, np.eye(CLASSES))
    return same * alike + (1 - same) * np.einsum("ka,kb->kab", a, b)


def drawn(chances: np.ndarray, images: int, rng: np.random.Generator) -> np.ndarray:
    """Labels and one prediction for each further axis of ``chances``: (1 + axes, n)."""
    counts = rng.multinomial(totals_of(images), chances.reshape(CLASSES, -1)).ravel()
    cells = np.indices(chances.shape).reshape(chances.ndim, -1)
    return np.repeat(cells, counts, axis=1)


def sklearn_f1(labels: np.ndarray, y_pred: np.ndarray, classes: int) -> float:
    return float(
        f1_score(labels, y_pred, labels=np.arange(classes), average="macro", zero_division=0)
    )


@st.composite
def predictions(draw: st.DrawFn, rows: int = 2) -> tuple[int, np.ndarray, list[np.ndarray]]:
    """Classes, labels and y_preds: few images, absent classes, all right, all wrong."""
    classes, images = draw(st.integers(2, 5)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(0, draw(st.integers(1, classes)), images)
    y_preds = []
    for _ in range(rows):
        right = rng.random(images) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
        wrong = (labels + rng.integers(1, classes, images)) % classes
        y_preds.append(np.where(right, labels, wrong))
    return classes, labels, y_preds


# --- one row -----------------------------------------------------------------------------------


@given(predictions(rows=1), st.integers(0, 1000))
def test_bootstrapped_counts_score_as_resampled_labels(
    case: tuple[int, np.ndarray, list[np.ndarray]], seed: int
) -> None:
    classes, (labels, y_pred) = case[0], (np.repeat(rows, 10) for rows in (case[1], case[2][0]))
    confusion = np.bincount(labels * classes + y_pred, minlength=classes**2).reshape(classes, -1)
    result = bootstrap(confusion, resamples=4, seed=seed)
    rng, drawn_rows = np.random.default_rng(seed), []
    for k in np.unique(labels):
        chances = confusion[k] + 2 / classes / classes
        rows = rng.multinomial(confusion[k].sum(), chances / chances.sum(), size=4)
        drawn_rows.append([np.repeat(np.arange(classes), row) for row in rows])
    for resample in range(4):
        again = np.concatenate([rows[resample] for rows in drawn_rows])
        ordered = np.sort(labels)
        assert result.macro_f1[resample] == pytest.approx(sklearn_f1(ordered, again, classes))
        assert result.accuracy[resample] == pytest.approx(accuracy_score(ordered, again))


def test_the_bootstrap_spreads_as_images_drawn_again_one_by_one() -> None:
    rng = np.random.default_rng(0)
    labels, y_pred = drawn(world(0.9, rng), 1000, rng)
    confusion = np.bincount(labels * CLASSES + y_pred, minlength=64).reshape(8, 8)
    naive = []
    for _ in range(1500):
        of_each = [rng.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(8)]
        picked = np.concatenate(of_each)
        naive.append(macro_f1(labels[picked], y_pred[picked], CLASSES))
    result = bootstrap(confusion).macro_f1
    assert result.std() == pytest.approx(np.std(naive), rel=0.08)
    assert result.mean() == pytest.approx(np.mean(naive), abs=0.003)


@pytest.mark.parametrize(("classes", "corrected"), [(20, True), (8, False)])
def test_fewer_images_a_class_than_classes_are_corrected(classes: int, corrected: bool) -> None:
    right = 6 * np.eye(classes, dtype=int)
    half_right = right + np.roll(right, 1, axis=1)  # A macro F1 of .5 on 12 images a class.
    mean = bootstrap(half_right).macro_f1.mean()
    assert (abs(mean - 0.5) < 0.002) == corrected


def test_a_seed_fixes_the_stream() -> None:
    confusion = np.array([[8, 2], [1, 9]])
    one, two = bootstrap(confusion), bootstrap(confusion)
    np.testing.assert_array_equal(one.macro_f1, two.macro_f1)
    assert (bootstrap(confusion, seed=1).macro_f1 != one.macro_f1).any()


def test_a_perfect_row_is_not_certain() -> None:
    low, high = interval(bootstrap(np.diag(totals_of(400))).macro_f1)
    assert 0.97 < low < 1
    assert high == 1
    more = interval(bootstrap(np.diag(totals_of(4000))).macro_f1)
    assert low < more[0]


def test_an_absent_class_and_one_image() -> None:
    absent = bootstrap(np.array([[5, 1, 0], [0, 6, 0], [0, 0, 0]]))
    assert absent.macro_f1.max() <= 2 / 3 + 1e-12
    one = bootstrap(np.array([[1, 0], [0, 0]]))
    assert interval(one.accuracy)[1] == 1


@pytest.mark.parametrize("classes", [2, 20, 50])
def test_a_perfect_score_lies_in_its_interval_for_any_number_of_classes(classes: int) -> None:
    for images in (5, 20):
        samples = bootstrap(images * np.eye(classes, dtype=int), resamples=1000)
        assert interval(samples.macro_f1)[1] == interval(samples.accuracy)[1] == 1
        assert interval(samples.macro_f1)[0] > 0.5


def test_the_interval_is_of_percentiles() -> None:
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert interval(np.arange(101.0), level=0.5) == pytest.approx((25, 75))


def coverage(images: int, target: float, sets: int, seed: int) -> tuple[float, float]:
    """How often the 95 % interval holds the true macro F1, and the true accuracy."""
    rng, covers = np.random.default_rng(seed), []
    totals = totals_of(images)
    for i in range(sets):
        if i % 50 == 0:
            chances = world(target, rng)
            accuracy = float(np.diag(chances) @ totals / totals.sum())
            confusion = chances * totals[:, None]
            either = confusion.sum(axis=0) + totals
            f1 = float((2 * np.diag(confusion) / either).mean())
        samples = bootstrap(rng.multinomial(totals, chances), resamples=1000, seed=i)
        low, high = interval(samples.macro_f1)
        low_accuracy, high_accuracy = interval(samples.accuracy)
        # An accuracy is a whole number of images: half of one either way is the same statement.
        half = 0.5 / totals.sum()
        covers.append((low <= f1 <= high, low_accuracy - half <= accuracy <= high_accuracy + half))
    covered = np.mean(covers, axis=0)
    return float(covered[0]), float(covered[1])


@pytest.mark.parametrize(("images", "target"), [(400, 0.7), (400, 0.98), (2400, 0.9)])
def test_intervals_hold_the_truth_as_often_as_they_say(images: int, target: float) -> None:
    for rate in coverage(images, target, sets=300, seed=images):
        assert 0.95 - 4 * 0.0126 < rate < 0.995


@pytest.mark.slow
@pytest.mark.parametrize("images", [100, 400, 2400])
@pytest.mark.parametrize("target", [0.7, 0.9, 0.98, 0.995])
def test_coverage_is_within_three_points(images: int, target: float) -> None:
    f1, accuracy = coverage(images, target, sets=2000, seed=1)
    print(f"coverage: {images} images, macro F1 {target}: {f1:.3f}, accuracy {accuracy:.3f}")
    assert f1 == pytest.approx(0.95, abs=0.03)
    assert 0.93 - 3 * 0.0049 < accuracy < 0.995


def test_split_spread() -> None:
    assert split_spread([0.9], [0.01]) == (None, 0.01)
    seed_sd, test_sd = split_spread([0.9, 0.92, 0.94], [0.01, 0.01, 0.04])
    assert seed_sd == pytest.approx(0.02)
    assert test_sd == pytest.approx(0.02)


@pytest.mark.parametrize("same", [0.0, 0.9])
def test_the_test_images_noise_of_a_mean_is_bounded_by_the_seeds_mean(same: float) -> None:
    rng = np.random.default_rng(3)
    labels, one, two = drawn(two_worlds((0.8, 0.8), same, rng), 800, rng)
    means = []
    for _ in range(800):
        of_each = [rng.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(8)]
        at = np.concatenate(of_each)
        means.append(np.mean([macro_f1(labels[at], y_pred[at], CLASSES) for y_pred in (one, two)]))
    sds = []
    for y_pred in (one, two):
        confusion = np.bincount(labels * CLASSES + y_pred, minlength=64).reshape(8, 8)
        sds.append(float(bootstrap(confusion).macro_f1.std()))
    _, bound = split_spread([0.8, 0.8], sds)
    assert np.std(means) < 1.05 * bound
    if same:
        assert np.std(means) > 0.9 * bound


# --- two rows ----------------------------------------------------------------------------------


@given(predictions())
def test_mcnemar_is_statsmodels(case: tuple[int, np.ndarray, list[np.ndarray]]) -> None:
    _, labels, (a, b) = case
    right_a, right_b = a == labels, b == labels
    table = [
        [(right_a & right_b).sum(), (right_a & ~right_b).sum()],
        [(~right_a & right_b).sum(), (~right_a & ~right_b).sum()],
    ]
    assert mcnemar(labels, a, b) == pytest.approx(their_mcnemar(table, exact=True).pvalue)


def test_mcnemar_of_many_images() -> None:
    labels = np.zeros(4000, dtype=int)
    a, b = np.repeat([0, 1], [2100, 1900]), np.repeat([1, 0], [2100, 1900])
    table = [[0, 2100], [1900, 0]]
    assert mcnemar(labels, a, b) == pytest.approx(their_mcnemar(table, exact=True).pvalue)


@settings(max_examples=50)
@given(predictions())
def test_a_paired_difference_is_scikit_learns(
    case: tuple[int, np.ndarray, list[np.ndarray]],
) -> None:
    classes, labels, (a, b) = case
    result = paired(labels, a, b, classes)
    expected = sklearn_f1(labels, a, classes) - sklearn_f1(labels, b, classes)
    assert result.difference == pytest.approx(expected)
    assert result.low < result.high
    assert 0 <= result.p <= 1
    turned = paired(labels, b, a, classes)
    assert turned.difference == pytest.approx(-expected)
    assert turned.p == pytest.approx(result.p)


@given(predictions(rows=1))
def test_a_row_does_not_differ_from_itself_but_might(
    case: tuple[int, np.ndarray, list[np.ndarray]],
) -> None:
    classes, labels, (y_pred,) = case
    result = paired(labels, y_pred, y_pred, classes)
    assert (result.difference, result.p) == (0, 1)
    assert result.low < 0 < result.high


def test_where_one_class_is_in_doubt_p_is_mcnemars() -> None:
    labels = np.repeat([0, 1], [60, 40])
    a, b = labels.copy(), labels.copy()
    a[:4], b[4:16] = 1, 1
    exact = mcnemar(labels, a, b)
    assert exact == pytest.approx(0.0768, abs=1e-4)
    assert paired(labels, a, b, 2).p == pytest.approx(exact, abs=0.02)


def test_an_obvious_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    labels, a, b = drawn(two_worlds((0.95, 0.8), 0.0, rng), 800, rng)
    result = paired(labels, a, b, CLASSES)
    assert result.p < 1e-6
    assert 0 < result.low < result.difference < result.high


@given(predictions())
def test_the_interval_excludes_zero_exactly_where_p_is_small(
    case: tuple[int, np.ndarray, list[np.ndarray]],
) -> None:
    classes, labels, (a, b) = case
    for y_preds in ((a, b), (np.stack([a, b]), np.stack([b, b]))):
        result = paired(labels, *y_preds, classes)
        assert (result.p < 0.05) == (not result.low <= 0 <= result.high)


@pytest.mark.parametrize("same", [0.0, 0.8])
def test_p_is_that_of_swapping_the_two_predictions_of_an_image(same: float) -> None:
    """Approximate randomisation (Yeh 2000): the closed form is its limit for many images."""
    rng = np.random.default_rng(4)
    for _ in range(6):
        labels, a, b = drawn(two_worlds((0.9, 0.89), same, rng), 2400, rng)
        result, swapped = paired(labels, a, b, CLASSES), []
        for _ in range(1000):
            swap = rng.random(len(labels)) < 0.5
            one, other = np.where(swap, b, a), np.where(swap, a, b)
            swapped.append(macro_f1(labels, one, CLASSES) - macro_f1(labels, other, CLASSES))
        p = np.mean(np.abs(swapped) >= abs(result.difference))
        assert result.p == pytest.approx(p, abs=0.05)


def test_seeds_are_scored_by_their_mean_and_their_spread_counts() -> None:
    rng = np.random.default_rng(2)
    labels, a, b = drawn(two_worlds((0.9, 0.85), 0.3, rng), 600, rng)
    one = paired(labels, a, b, CLASSES)
    same = paired(labels, np.stack([a, a]), np.stack([b, b]), CLASSES)
    assert same.difference == pytest.approx(one.difference)
    assert (one.seeds, same.seeds) == (1, 2)
    assert same.p == pytest.approx(one.p), "seeds that agree add nothing"
    mixed = paired(labels, np.stack([a, b]), np.stack([b, b]), CLASSES)
    assert mixed.difference == pytest.approx(one.difference / 2)
    assert mixed.high - mixed.low > same.high - same.low
    views = paired(labels, np.stack([a, b]), np.stack([b, a]), CLASSES, same_networks=True)
    assert views.p == 1


def test_a_class_of_two_images_proves_nothing() -> None:
    labels = np.repeat([0, 1, 2], [100, 100, 2])
    a, b = labels.copy(), labels.copy()
    b[-2:] = 0
    assert paired(labels, a, b, 3).p > 0.1


def null_rates(images: int, target: float, same: float, sets: int) -> float:
    """How often two equally good rows differ significantly."""
    rng, differ = np.random.default_rng(images), 0
    for i in range(sets):
        if i % 25 == 0:
            chances = two_worlds((target, target), same, rng)
        differ += paired(*drawn(chances, images, rng), CLASSES).p < 0.05
    return differ / sets


def test_equal_rows_differ_in_one_case_of_twenty() -> None:
    assert 0.01 < null_rates(400, 0.85, same=0.5, sets=400) < 0.05 + 3 * 0.0109


@pytest.mark.slow
@pytest.mark.parametrize("images", [400, 2400])
@pytest.mark.parametrize("target", [0.8, 0.98])
@pytest.mark.parametrize("same", [0.0, 0.7])
def test_no_false_alarms_beyond_the_level(images: int, target: float, same: float) -> None:
    rate = null_rates(images, target, same, sets=1500)
    print(f"null: {images} images, F1 {target}, same {same}: {rate:.3f}")
    assert rate < 0.05 + 0.005 + 3 * 0.0056


# --- several comparisons -----------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_statsmodels(p: list[float]) -> None:
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_holm_of_nothing() -> None:
    assert len(holm([])) == 0


# --- an ensemble's members ---------------------------------------------------------------------


def test_diversity_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    a = np.array([0, 0, 1, 1, 0, 0])
    b = np.array([0, 1, 1, 0, 2, 1])
    result = diversity(labels, [a, b, labels], 3)
    # Both right on images 0 and 2, only a on 1 and 3, only b on 4, neither on 5.
    assert result.disagreement[0, 1] == pytest.approx(3 / 6)
    assert result.q_statistic[0, 1] == pytest.approx((2 * 1 - 2 * 1) / (2 * 1 + 2 * 1))
    assert result.disagreement[0, 0] == 0
    assert result.q_statistic[0, 0] == 1
    assert np.isnan(result.q_statistic[0, 2])
    assert result.oracle_macro_f1 == 1
    pair = diversity(labels, [a, b], 3)
    best = np.array([0, 0, 1, 1, 2, 0])
    assert pair.oracle_macro_f1 == pytest.approx(sklearn_f1(labels, best, 3))


@given(predictions(rows=3))
def test_diversity_is_symmetric_and_bounded(
    case: tuple[int, np.ndarray, list[np.ndarray]],
) -> None:
    classes, labels, y_preds = case
    result = diversity(labels, y_preds, classes)
    np.testing.assert_array_equal(result.disagreement, result.disagreement.T)
    np.testing.assert_array_equal(result.q_statistic, result.q_statistic.T)
    known = result.q_statistic[~np.isnan(result.q_statistic)]
    assert ((known >= -1) & (known <= 1)).all()
    assert 0 <= result.oracle_macro_f1 <= 1


def test_independent_errors_have_no_q() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(20_000, dtype=int)
    a, b = (rng.random((2, 20_000)) < 0.2).astype(int)
    assert diversity(labels, [a, b], 2).q_statistic[0, 1] == pytest.approx(0, abs=0.06)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto(np.array(points, dtype=float))
    for point, stands in zip(points, front, strict=True):
        beaten = any(o != point and o[0] >= point[0] and o[1] >= point[1] for o in points)
        assert stands == (not beaten)
    assert front.any()


def test_an_unknown_point_is_not_on_the_front() -> None:
    points = np.array([[0.9, 10.0], [0.95, np.nan], [0.8, 5.0]])
    assert pareto(points).tolist() == [True, False, False]
