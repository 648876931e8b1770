"""The embedded data set: what it promises of shape, repeatability, faults and difficulty."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from harness.data.synthetic import smear
from harness.data.synthetic.appearance import APPEARANCES, CLASS_COUNTS
from harness.data.synthetic.cells import sample_cells
from harness.data.synthetic.painting import CELL, LOBES, VACUOLES, paint
from harness.data.synthetic.smear import CLASS_NAMES, MINIMUM, VERSION, Smear, draw
from harness.errors import DataError


@pytest.fixture(scope="module")
def drawn() -> Smear:
    return draw(1000, seed=7)


@pytest.fixture(scope="module")
def clean() -> Smear:
    return draw(800, seed=3, faults=False)


def test_has_the_promised_shapes_and_types(drawn: Smear) -> None:
    assert drawn.images.shape == (1000, 96, 96, 3)
    assert drawn.images.dtype == np.uint8
    assert drawn.labels.shape == (1000,)
    assert {drawn.labels.dtype, drawn.contaminants.dtype} == {np.dtype(np.int64)}
    assert drawn.duplicates.dtype == drawn.near_duplicates.dtype == np.int64
    assert drawn.duplicates.shape[1:] == drawn.near_duplicates.shape[1:] == (2,)
    assert set(drawn.labels) == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize("count", [MINIMUM, 97, 301])
@pytest.mark.parametrize("faults", [True, False])
def test_draws_exactly_the_count(count: int, faults: bool) -> None:
    drawn = draw(count, faults=faults)
    assert len(drawn.images) == len(drawn.labels) == count
    assert set(drawn.labels) == set(range(8))


def test_the_same_arguments_draw_the_same_bytes() -> None:
    for one, two in zip(draw(200, seed=7), draw(200, seed=7), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    expected = draw(200, seed=7).images
    monkeypatch.setattr(smear, "_BATCH", batch)
    np.testing.assert_array_equal(draw(200, seed=7).images, expected)


def test_thread_count_changes_nothing() -> None:
    expected = draw(100, seed=1).images
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        np.testing.assert_array_equal(draw(100, seed=1).images, expected)
    finally:
        cv2.setNumThreads(threads)


def test_another_seed_draws_other_images_in_another_order() -> None:
    one, two = draw(100, seed=0), draw(100, seed=1)
    assert (one.labels != two.labels).any()
    cells = np.setdiff1d(np.arange(100), np.union1d(one.contaminants, two.contaminants))
    assert all((one.images[i] != two.images[i]).any() for i in cells)


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first = draw(MINIMUM).images
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(6)
    np.testing.assert_array_equal(draw(MINIMUM).images, first)


def test_classes_have_the_proportions_of_the_real_set(clean: Smear) -> None:
    exact = 800 * np.array(CLASS_COUNTS) / sum(CLASS_COUNTS)
    assert np.abs(np.bincount(clean.labels) - exact).max() < 1


def test_the_order_is_shuffled(clean: Smear) -> None:
    runs = 1 + np.count_nonzero(np.diff(clean.labels))
    assert runs > 500


@pytest.mark.parametrize("count", [MINIMUM - 1, 0, -3])
def test_too_few_images_are_rejected_in_one_line(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} images are too few; draw at least {MINIMUM}"):
        draw(count)


def test_a_negative_seed_is_rejected() -> None:
    with pytest.raises(DataError, match="seed is -1"):
        draw(MINIMUM, seed=-1)


# --- the planted faults ----------------------------------------------------------------------


def groups_of_equal_pixels(images: np.ndarray) -> list[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.tobytes(), []).append(index)
    return [members for members in groups.values() if len(members) > 1]


def test_equal_pixels_are_exactly_the_listed_duplicates_and_contaminants(drawn: Smear) -> None:
    found = groups_of_equal_pixels(drawn.images)
    foreign = set(drawn.contaminants)
    pairs = {frozenset(group) for group in found if not foreign & set(group)}
    assert pairs == {frozenset(pair) for pair in drawn.duplicates.tolist()}
    strange = [group for group in found if foreign & set(group)]
    assert sorted(i for group in strange for i in group) == drawn.contaminants.tolist()
    assert len(strange) == 2


def test_contaminants_are_a_few_percent_under_one_label_and_under_all(drawn: Smear) -> None:
    assert 0.02 <= len(drawn.contaminants) / 1000 <= 0.03
    copies: dict[bytes, set[int]] = {}
    for index in drawn.contaminants:
        copies.setdefault(drawn.images[index].tobytes(), set()).add(int(drawn.labels[index]))
    labels = sorted(copies.values(), key=len)
    assert labels == [{CLASS_NAMES.index("monocyte")}, set(range(8))]


def test_duplicates_share_their_label(drawn: Smear) -> None:
    pairs = np.concatenate([drawn.duplicates, drawn.near_duplicates])
    assert len(drawn.duplicates) >= 2
    assert len(drawn.near_duplicates) >= 2
    np.testing.assert_array_equal(drawn.labels[pairs[:, 0]], drawn.labels[pairs[:, 1]])
    assert len(np.unique(pairs)) == pairs.size
    assert not np.isin(pairs, drawn.contaminants).any()


def test_near_duplicates_differ_but_less_than_any_other_pair(drawn: Smear) -> None:
    small = np.stack([cv2.resize(i, (24, 24), interpolation=cv2.INTER_AREA) for i in drawn.images])
    flat = small.reshape(len(small), -1).astype(float)
    flat -= flat.mean(1, keepdims=True)
    for one, two in drawn.near_duplicates:
        assert (drawn.images[one] != drawn.images[two]).any()
        distance = np.linalg.norm(flat - flat[one], axis=1)
        distance[one] = np.inf
        assert distance.argmin() == two


def test_without_faults_nothing_is_planted(clean: Smear) -> None:
    assert len(clean.contaminants) == len(clean.duplicates) == len(clean.near_duplicates) == 0
    assert groups_of_equal_pixels(clean.images) == []


# --- the appearances -----------------------------------------------------------------------------


def of_class(drawn: Smear, name: str) -> np.ndarray:
    return drawn.images[drawn.labels == CLASS_NAMES.index(name)].astype(float)


def test_platelets_have_the_smallest_stained_area(clean: Smear) -> None:
    dark = {n: (of_class(clean, n)[..., 1] < 100).mean((1, 2)) for n in CLASS_NAMES}
    medians = {name: np.median(areas) for name, areas in dark.items()}
    assert min(medians, key=lambda name: medians[name]) == "platelet"
    assert max(medians, key=lambda name: medians[name]) in ("ig", "monocyte", "basophil")


def test_eosinophils_are_the_reddest_and_basophils_the_darkest(clean: Smear) -> None:
    middle = slice(24, 72)
    red, light = {}, {}
    for name in CLASS_NAMES:
        part = of_class(clean, name)[:, middle, middle]
        red[name] = np.median((part[..., 0] - part[..., 2]).mean((1, 2)))
        light[name] = np.median(part[..., 1].mean((1, 2)))
    cells = set(CLASS_NAMES) - {"platelet", "erythroblast"}  # theirs is mostly background
    assert max(cells, key=lambda name: red[name]) == "eosinophil"
    assert min(light, key=lambda name: light[name]) in ("basophil", "ig")


def test_one_painted_nucleus_is_where_the_table_puts_it() -> None:
    cell = sample_cells(np.full(1, CLASS_NAMES.index("erythroblast")), np.random.default_rng(0))
    cell["centre"] = 48
    cell["radius"], cell["wobble"], cell["frill"] = 24, 0, 0
    cell["lobes"][:, :, 2] = -1
    cell["lobes"][:, 0] = (40, 52, 9)
    cell["gain"], cell["light"], cell["focus"] = 1, 0, 0.35
    dark = paint(cell)[0, :, :, 0] < 90
    y, x = np.nonzero(dark)
    assert abs(x.mean() - 40) < 1
    assert abs(y.mean() - 52) < 1
    assert abs(np.sqrt(dark.sum() / np.pi) - 9) < 1


def test_the_table_of_appearances_is_complete() -> None:
    assert len(APPEARANCES) == len(CLASS_NAMES) == len(CLASS_COUNTS) == 8
    for name, appearances in zip(CLASS_NAMES, APPEARANCES, strict=True):
        assert sum(each.share for each in appearances) == pytest.approx(1), name
        for each in appearances:
            assert 1 <= each.lobes[0] <= each.lobes[1] <= LOBES, each.name
            assert 0 <= each.vacuoles[0] <= each.vacuoles[1] <= VACUOLES, each.name
            assert each.melt[0] > 0.3, each.name  # Else the smooth minimum overflows.
            assert each.radius[0] <= each.radius[1] < 48, each.name


def test_every_field_of_the_table_of_cells_is_drawn() -> None:
    cells = sample_cells(np.arange(8).repeat(20), np.random.default_rng(1))
    for name in CELL.names or ():
        assert np.isfinite(cells[name]).all(), name
        assert np.ptp(cells[name], axis=0).max() > 0, name


def test_the_drawing_version_is_part_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw(MINIMUM).labels
    monkeypatch.setattr(smear, "VERSION", VERSION + 1)
    assert (draw(MINIMUM).labels != before).any()


@pytest.mark.slow
def test_a_linear_classifier_on_raw_pixels_stays_in_the_middle() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    drawn = draw(3000, seed=11, faults=False)
    small = [cv2.resize(i, (24, 24), interpolation=cv2.INTER_AREA) for i in drawn.images]
    pixels = np.stack(small).reshape(3000, -1).astype(np.float32)
    train, test, y_train, y_test = train_test_split(
        pixels, drawn.labels, test_size=0.3, stratify=drawn.labels, random_state=0
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, tol=0.01, max_iter=500))
    score = f1_score(y_test, model.fit(train, y_train).predict(test), average="macro")
    assert 0.3 < score < 0.85
