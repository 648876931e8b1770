"""Which image is train, validation and test. A pure function of labels, groups and the rule.

Images with the same pixels form a group, and a group lies in one part: otherwise the test would
ask for what was learnt by heart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import DataError
from harness.schema.dataset import Dataset, Parts, Split

TRAIN, VALIDATION, TEST, UNUSED = range(4)
NAMES = ("train", "validation", "test")


def split_indices(split: Split, dataset: Dataset) -> Parts:
    """The sorted ids of each part; the same for the same labels, groups and rule.

    A drawn split is stratified by label: each class has its share of every part, to the image as
    far as groups allow. A given split is kept, except that train and validation lose what also
    occurs in a later part; test keeps every image. ``subset`` then thins each part, stratified.

    Raises DataError when a class cannot be in all three parts, when there are too few images for
    what was asked, or a given split lacks a part.
    """
    part = assign(split, dataset)
    _require_every_class(part, dataset)
    ids = [np.flatnonzero(part == p) for p in range(3)]
    if split.subset is not None:
        ids = [_thin(ids[p], p, split, dataset) for p in range(3)]
    return Parts(*(chosen.astype(np.int64) for chosen in ids))


def assign(split: Split, dataset: Dataset) -> np.ndarray:
    """The part of every image (N,), 0-2, before any subset; another number where it has none."""
    if split.use_given and dataset.given is not None:
        return _keep_given(split, dataset)
    return _draw(split, dataset)


def table(parts: Parts, digests: np.ndarray) -> str:
    """A split as CSV: every image's index and part (``unused`` where it has none), and the SHA-256
    of its own pixels in the source, uint8 (N, 32), by which it is known in any other order.
    """
    names = np.full(len(digests), "unused", object)
    for name in NAMES:
        names[getattr(parts, name)] = name
    lines = [f"{i},{name},{digests[i].tobytes().hex()}" for i, name in enumerate(names)]
    return "\n".join(["index,part,sha256", *lines]) + "\n"


def apportion(total: int, weights: np.ndarray, least: int = 0) -> np.ndarray:
    """Whole numbers that sum to ``total``, as ``weights`` have it (largest remainders).

    Each positive weight gets ``least`` at least, taken from the largest numbers.
    """
    if weights.sum() == 0:
        return np.zeros(len(weights), np.int64)
    ideal = total * weights / weights.sum()
    shares: np.ndarray = np.floor(ideal + 1e-9).astype(np.int64)
    by_remainder = np.argsort(shares - ideal, kind="stable")
    shares[by_remainder[: total - shares.sum()]] += 1
    while (needy := np.flatnonzero((weights > 0) & (shares < least))).size:
        if shares.max() <= least:
            break  # there is not enough for all
        shares[needy[0]] += 1
        shares[np.argmax(shares)] -= 1
    return shares


# --- a given split -------------------------------------------------------------------------------


def _keep_given(split: Split, dataset: Dataset) -> np.ndarray:
    assert dataset.given is not None
    asked = [name for name in ("folds", "counts", "balanced_test") if getattr(split, name)]
    if asked:
        raise DataError(
            f"{dataset.name} brings its own split, which split.{asked[0]} cannot change; "
            "set use_given = false to draw one"
        )
    part: np.ndarray = dataset.given.copy()
    missing = [NAMES[p] for p in range(3) if not (part == p).any()]
    if missing:
        hint = "set use_given = false to draw a split"
        raise DataError(f"{dataset.name}: its own split has no {' and no '.join(missing)}; {hint}")
    last = np.full(len(part), -1)
    np.maximum.at(last, dataset.groups, part)
    part[part < last[dataset.groups]] = -1
    return part


# --- a drawn split -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seating:
    """The state of a drawing: the different pictures, and which part each has got so far."""

    copies: np.ndarray
    """(G, K): of each picture, how many copies carry which label."""
    order: np.ndarray
    """(G,): the pictures, shuffled; every choice among equals follows this order."""
    huge: np.ndarray
    """(G,) bool: pictures that count for no quota."""
    quota: np.ndarray
    """(4, K): the images that each part is still owed; those of no part are the last."""
    place: np.ndarray
    """(G,): the part, or -1."""

    def seat(self, picture: int, part: int) -> None:
        self.place[picture] = part
        if not self.huge[picture]:
            self.quota[part] -= self.copies[picture]

    def waiting(self, which: np.ndarray) -> list[int]:
        """The pictures of a mask (G,) without a place, in the shuffled order."""
        return [int(g) for g in self.order[which[self.order] & (self.place[self.order] < 0)]]


def _draw(split: Split, dataset: Dataset) -> np.ndarray:
    _, picture_of = np.unique(dataset.groups, return_inverse=True)
    copies = np.zeros((picture_of.max() + 1, len(dataset.class_names)), np.int64)
    np.add.at(copies, (picture_of, dataset.labels), 1)
    # Over half of what train gets of a class is one picture: it goes to train and counts for no
    # quota, or else train would hold little but its copies.
    due = split.ratios[TRAIN] * copies.sum(axis=0)
    if split.counts is not None:
        due = np.minimum(due, split.counts[TRAIN] * copies.sum(axis=0) / copies.sum())
    huge = (copies.sum(axis=1) > 1) & (2 * copies > due).any(axis=1)
    order = np.random.default_rng(split.seed).permutation(len(copies))
    place = np.full(len(copies), -1)
    if split.folds:
        _require_folds(split, copies[~huge], dataset)
        place[_fold(split, copies, order, huge)] = TEST
    counted = copies[~huge & (place < 0)].sum(axis=0)
    quota = quotas(split, counted, dataset)
    seating = _Seating(copies, order, huge, quota, place)
    # With folds the test part is dealt: to add to it would take from another fold's.
    _seat_one_of_each(seating, (VALIDATION,) if split.folds else (VALIDATION, TEST))
    for picture in seating.waiting(huge):
        seating.seat(picture, TRAIN if split.counts is None else UNUSED)
    _seat_copies(seating)
    _seat_singles(seating)
    return seating.place[picture_of]


def quotas(split: Split, counted: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The images (4, K) that each part is to get of ``counted`` (K,) ones; the last: of no part.

    Raises DataError where there are too few.
    """
    quota = np.zeros((4, len(counted)), np.int64)
    ratios = np.array(split.ratios)
    if split.folds:  # the test part has its fold already
        ratios[TEST] = 0
    if split.counts is not None:
        quota[:3] = _by_count(split, counted, dataset)
    elif split.balanced_test:
        # At most half of the smallest class: its training needs some too.
        each = min(
            int(ratios[TEST] * counted.sum() + 1e-9) // len(counted), int(counted.min()) // 2
        )
        quota[TEST] = max(each, 1)
        quota[:TEST] = _apart(counted - quota[TEST], ratios[:TEST])
    else:
        quota[:3] = _apart(counted, ratios)
    quota[UNUSED] = counted - quota[:3].sum(axis=0)
    return quota


def _apart(counted: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    return np.stack([apportion(int(n), ratios, least=1) for n in counted], axis=1)


def _by_count(split: Split, counted: np.ndarray, dataset: Dataset) -> np.ndarray:
    """(3, K): each part's count over the classes by their size, or evenly in a balanced test."""
    assert split.counts is not None
    counts, classes, name = split.counts, len(counted), dataset.name
    asked = f"split.counts asks for {sum(counts):,} images"
    if sum(counts) > counted.sum():
        raise DataError(f"{name}: {asked}, but there are {counted.sum():,} that can be split")
    if split.balanced_test and counts[TEST] % classes:
        raise DataError(
            f"{name}: {counts[TEST]} test images cannot be {classes} classes of one size; "
            f"say {max(counts[TEST] // classes, 1) * classes} in split.counts"
        )
    test = counted if not split.balanced_test else np.ones(classes)
    quota = np.zeros((3, classes), np.int64)
    quota[TEST] = apportion(counts[TEST], test, least=1)
    left = counted - quota[TEST]
    for part in (VALIDATION, TRAIN):
        quota[part] = apportion(counts[part], np.maximum(left, 0), least=1)
        left = left - quota[part]
    if left.min() < 0:
        scarce = int(np.argmin(left))
        raise DataError(f"{name}: {asked}, too many for class {dataset.class_names[scarce]!r}")
    return quota


def _fold(split: Split, copies: np.ndarray, order: np.ndarray, huge: np.ndarray) -> np.ndarray:
    """The pictures of this fold. Each lies in one fold; copies first, where their class is scarce.

    Every class is spread evenly over the folds, to the image as far as groups allow.
    """
    seats = np.zeros((split.folds, copies.shape[1]), np.int64)
    mine = []
    several = copies.sum(axis=1) > 1
    singles = order[~several[order] & ~huge[order]]
    grouped = order[several[order] & ~huge[order]]
    by_size = grouped[np.argsort(-copies[grouped].sum(axis=1), kind="stable")]
    by_class = singles[np.argsort(copies[singles].argmax(axis=1), kind="stable")]
    for picture in (*by_size, *by_class):
        full = seats[:, copies[picture] > 0].max(axis=1)
        fold = int(np.lexsort((seats.sum(axis=1), full))[0])
        seats[fold] += copies[picture]
        if fold == split.fold:
            mine.append(int(picture))
    return np.array(mine, np.int64)


def _seat_one_of_each(seating: _Seating, judging: tuple[int, ...]) -> None:
    """A picture of each class into each judging part, and into train; scarce classes first.

    The smallest picture that will do.
    """
    copies, place = seating.copies, seating.place
    several_labels = (copies > 0).sum(axis=1) > 1
    for k in np.argsort((copies > 0).sum(axis=0), kind="stable"):
        has_class = copies[:, k] > 0
        waiting = seating.waiting(has_class)
        waiting.sort(key=lambda g: (several_labels[g], copies[g].sum()))
        smaller_first = sorted(judging, key=lambda p: seating.quota[p, k])
        for part in (*smaller_first, TRAIN):
            if waiting and not (has_class & (place == part)).any():
                seating.seat(waiting.pop(0), part)


def _seat_copies(seating: _Seating) -> None:
    """Pictures with copies, the largest first, where they fit.

    Those with several labels cannot be scored fairly, and those above a tenth of a part would
    weigh too much there: they prefer train. The others go where most is owed.
    """
    owed_at_first, judging = np.maximum(seating.quota, 1), slice(VALIDATION, UNUSED)
    sizes = seating.copies.sum(axis=1)
    for picture in sorted(seating.waiting(sizes > 1), key=lambda g: -sizes[g]):
        of_class = np.flatnonzero(seating.copies[picture])
        size = seating.copies[picture, of_class]
        owed = seating.quota[:, of_class]
        fits = (size <= owed).all(axis=1)
        wish = (owed / owed_at_first[:, of_class]).min(axis=1)
        if len(of_class) > 1 or (10 * size > owed_at_first[judging, of_class]).any():
            wish[TRAIN] = np.inf
        seating.seat(picture, int(np.argmax(np.where(fits, wish, -1))) if fits.any() else TRAIN)


def _seat_singles(seating: _Seating) -> None:
    """The rest of each class, as many into each part as it is owed."""
    for k in range(seating.copies.shape[1]):
        rest = seating.waiting(seating.copies[:, k] > 0)
        shares = apportion(len(rest), np.maximum(seating.quota[:, k], 0))
        seating.place[rest] = np.repeat([TRAIN, VALIDATION, TEST, UNUSED], shares)


# --- what every split must hold ------------------------------------------------------------------


def _require_every_class(part: np.ndarray, dataset: Dataset) -> None:
    for k, name in enumerate(dataset.class_names):
        of_class = dataset.labels == k
        missing = [NAMES[p] for p in range(3) if not (of_class & (part == p)).any()]
        if missing:
            different = len(np.unique(dataset.groups[of_class]))
            copies = f" of {different} different pictures" if different < of_class.sum() else ""
            count = f"{of_class.sum()} images{copies}"
            where = f"none is left for {' and '.join(missing)}"
            raise DataError(f"{dataset.name}: class {name!r} has {count}; {where}")


def _require_folds(split: Split, copies: np.ndarray, dataset: Dataset) -> None:
    different = (copies > 0).sum(axis=0)
    if different.min() < split.folds:
        scarce = int(np.argmin(different))
        name, count = dataset.class_names[scarce], different[scarce]
        raise DataError(
            f"{dataset.name}: class {name!r} has {count} different pictures, "
            f"too few for {split.folds} folds"
        )


def _thin(ids: np.ndarray, part: int, split: Split, dataset: Dataset) -> np.ndarray:
    """The subset of one part, stratified; each part has its own stream, so limits do not mix."""
    name = NAMES[part]
    limit: int = getattr(split.subset, name)
    if len(ids) <= limit:
        return ids
    labels, classes = dataset.labels[ids], len(dataset.class_names)
    if limit < classes:
        raise DataError(f"subset.{name} is {limit}, but {dataset.name} has {classes} classes")
    rng = np.random.default_rng([split.seed, part])
    shares = apportion(limit, np.bincount(labels, minlength=classes), least=1)
    chosen = [rng.permutation(ids[labels == k])[:share] for k, share in enumerate(shares)]
    return np.sort(np.concatenate(chosen))
