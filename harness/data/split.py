"""Which image is train, validation and test. A pure function of labels, groups and the rule.

Images with the same pixels form a group, and a group lies in one part: otherwise the test would
ask for what was learnt by heart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import DataError
from harness.nouns import Dataset, Parts, Split

TRAIN, VALIDATION, TEST = range(3)
NAMES = ("train", "validation", "test")


def carry_out(split: Split, dataset: Dataset) -> Parts:
    """The sorted ids of each part; the same for the same labels, groups and rule.

    A drawn split is stratified by label: each class has its share of every part, to the image as
    far as groups allow. A given split is kept, except that train and validation lose what also
    occurs in a later part; test keeps every image. ``subset`` then thins each part, stratified.

    Raises DataError when a class cannot be in all three parts, or a given split lacks a part.
    """
    if split.use_given and dataset.given is not None:
        part = _keep_given(dataset)
    else:
        part = _draw(split, dataset)
    _require_every_class(part, dataset)
    ids = [np.flatnonzero(part == p) for p in range(3)]
    if split.subset is not None:
        ids = [_thin(ids[p], p, split, dataset) for p in range(3)]
    return Parts(*(chosen.astype(np.int64) for chosen in ids))


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


def _keep_given(dataset: Dataset) -> np.ndarray:
    assert dataset.given is not None
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
    """(3, K): the images that each part is still owed."""
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
    ratios = np.array(split.ratios)
    # Over half of what train gets of a class is one picture: it goes to train and counts for no
    # quota, or else train would hold little but its copies.
    huge = (copies.sum(axis=1) > 1) & (2 * copies > ratios[TRAIN] * copies.sum(axis=0)).any(axis=1)
    counted = copies[~huge].sum(axis=0)
    quota = np.stack([apportion(int(n), ratios, least=1) for n in counted], axis=1)
    order = np.random.default_rng(split.seed).permutation(len(copies))
    seating = _Seating(copies, order, huge, quota, np.full(len(copies), -1))
    _seat_one_of_each(seating)
    for picture in seating.waiting(huge):
        seating.seat(picture, TRAIN)
    _seat_copies(seating)
    _seat_singles(seating)
    return seating.place[picture_of]


def _seat_one_of_each(seating: _Seating) -> None:
    """A picture of each class into each part, the smallest that will do; scarce classes first."""
    copies, place = seating.copies, seating.place
    several_labels = (copies > 0).sum(axis=1) > 1
    for k in np.argsort((copies > 0).sum(axis=0), kind="stable"):
        has_class = copies[:, k] > 0
        waiting = seating.waiting(has_class)
        waiting.sort(key=lambda g: (several_labels[g], copies[g].sum()))
        smaller_first = sorted((VALIDATION, TEST), key=lambda p: seating.quota[p, k])
        for part in (*smaller_first, TRAIN):
            if waiting and not (has_class & (place == part)).any():
                seating.seat(waiting.pop(0), part)


def _seat_copies(seating: _Seating) -> None:
    """Pictures with copies, the largest first, where they fit.

    Those with several labels cannot be scored fairly, and those above a tenth of a part would
    weigh too much there: they prefer train. The others go where most is owed.
    """
    owed_at_first = np.maximum(seating.quota, 1)
    sizes = seating.copies.sum(axis=1)
    for picture in sorted(seating.waiting(sizes > 1), key=lambda g: -sizes[g]):
        of_class = np.flatnonzero(seating.copies[picture])
        size = seating.copies[picture, of_class]
        owed = seating.quota[:, of_class]
        fits = (size <= owed).all(axis=1)
        wish = (owed / owed_at_first[:, of_class]).min(axis=1)
        if len(of_class) > 1 or (10 * size > owed_at_first[VALIDATION:, of_class]).any():
            wish[TRAIN] = np.inf
        seating.seat(picture, int(np.argmax(np.where(fits, wish, -1))) if fits.any() else TRAIN)


def _seat_singles(seating: _Seating) -> None:
    """The rest of each class, as many into each part as it is owed."""
    for k in range(seating.copies.shape[1]):
        rest = seating.waiting(seating.copies[:, k] > 0)
        shares = apportion(len(rest), np.maximum(seating.quota[:, k], 0))
        seating.place[rest] = np.repeat([TRAIN, VALIDATION, TEST], shares)


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
