"""Train, validation and test ids: a pure function of labels, groups of copies, and the rule.

Images with the same pixels, also mirrored or in quarter turns, form a group, which is in one part
only: otherwise the test would contain training images. So do near copies, where the rule says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harness.errors import DataError
from harness.schema.dataset import Dataset, ImageIdentities, Parts, Split
from harness.storage.csv_table import csv_cell

TRAIN, VALIDATION, TEST, UNUSED = range(4)
PARTS = ("train", "validation", "test")


def split_indices(split: Split, dataset: Dataset) -> Parts:
    """The sorted ids of each part; the same for the same labels, groups and rule.

    A random split is stratified by label: each class has its share of every part, to the image as
    far as groups allow. The source's own split is used as it is, but train and validation lose
    copies of images of a later part. ``subset`` then limits each part, stratified.

    Raises DataError where a class would be missing from a part, there are too few images for the
    rule, or the source's own split lacks a part.
    """
    if split.group_near_copies and dataset.near_groups is not None:
        grouped = replace(dataset, groups=dataset.near_groups, near_groups=None)
        try:
            return split_indices(split, grouped)
        except DataError as error:
            hint = "near copies are one picture here; split.group_near_copies = false ignores them"
            raise DataError(f"{error}; {hint}") from None
    if split.use_given and dataset.given is not None:
        part = _given_split(split, dataset.given, dataset)
    else:
        part = _random_split(split, dataset)
    _require_every_class(part, dataset)
    ids = [np.flatnonzero(part == p) for p in range(3)]
    if split.subset is not None:
        ids = [_subset(ids[p], p, split, dataset) for p in range(3)]
    return Parts(*(chosen.astype(np.int64) for chosen in ids))


def effective_split(split: Split, dataset: Dataset) -> Split:
    """The rule without ``group_near_copies`` where no near copies would lie in different parts.

    So ids of runs do not depend on an option that changes nothing. All folds are split alike.
    Raises DataError as ``split_indices``.
    """
    if not split.group_near_copies:
        return split
    plain = split.model_copy(update={"group_near_copies": False})
    near = dataset.near_groups
    if near is None:
        return plain
    for fold in range(max(split.folds, 1)):
        parts = split_indices(plain.model_copy(update={"fold": fold}), dataset)
        groups = [np.unique(near[getattr(parts, part)]) for part in PARTS]
        if len(np.unique(np.concatenate(groups))) < sum(map(len, groups)):
            return split
    return plain


def split_csv(parts: Parts, images: ImageIdentities) -> str:
    """A split as CSV: index and part (``unused`` if none) of every image, SHA-256 and file."""
    import pandas as pd

    columns = images.columns(np.arange(len(images.sha256)))
    table = pd.DataFrame({"part": "unused", **columns}).map(csv_cell)
    for name in PARTS:
        table.loc[getattr(parts, name), "part"] = name
    return table.to_csv(index_label="index", lineterminator="\n")


def apportion(total: int, weights: np.ndarray, least: int = 0) -> np.ndarray:
    """Whole numbers (n,) summing to ``total``, proportional to ``weights``: largest remainders.

    Each positive weight gets ``least`` at least, taken from the largest numbers.
    """
    if weights.sum() == 0:
        return np.zeros(len(weights), np.int64)
    exact = total * weights / weights.sum()
    shares: np.ndarray = np.floor(exact + 1e-9).astype(np.int64)
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: total - shares.sum()]] += 1
    while (too_small := np.flatnonzero((weights > 0) & (shares < least))).size:
        if shares.max() <= least:
            break  # There is not enough for all.
        shares[too_small[0]] += 1
        shares[np.argmax(shares)] -= 1
    return shares


def _given_split(split: Split, given: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The part of each image (N,) in the source's own split; -1 for those in no part."""
    hint = "set use_given = false to draw"
    for option in ("folds", "counts", "balanced_test"):
        if getattr(split, option):
            problem = f"brings its own split, which split.{option} cannot change"
            raise DataError(f"{dataset.name} {problem}; {hint} one")
    missing = [name for p, name in enumerate(PARTS) if not (given == p).any()]
    if missing:
        problem = f"its own split has no {' and no '.join(missing)}"
        raise DataError(f"{dataset.name}: {problem}; {hint} a split")
    last = np.full(len(given), -1)
    np.maximum.at(last, dataset.groups, given)
    return np.where(given < last[dataset.groups], -1, given)


# --- a random split ------------------------------------------------------------------------------


def _random_split(split: Split, dataset: Dataset) -> np.ndarray:
    """The part of each image (N,)."""
    _, group_of = np.unique(dataset.groups, return_inverse=True)
    sizes = np.zeros((group_of.max() + 1, len(dataset.class_names)), np.int64)
    np.add.at(sizes, (group_of, dataset.labels), 1)
    # A group of over half of train's images of a class goes to train and counts for no quota, or
    # else train would have little but its copies.
    train = split.ratios[TRAIN] * sizes.sum(axis=0)
    if split.counts is not None:
        train = np.minimum(train, split.counts[TRAIN] * sizes.sum(axis=0) / sizes.sum())
    dominant = (sizes.sum(axis=1) > 1) & (2 * sizes > train).any(axis=1)
    order = np.random.default_rng(split.seed).permutation(len(sizes))
    part = np.full(len(sizes), -1)
    if split.folds:
        _require_folds(split, sizes[~dominant], dataset)
        part[_fold(split, sizes, order, dominant)] = TEST
    quota = _quotas(split, sizes[~dominant & (part < 0)].sum(axis=0), dataset)
    allocation = _Allocation(sizes, order, dominant, quota, part)
    # With folds the test part is complete: its images are missing from other folds' tests.
    allocation.cover_classes((VALIDATION,) if split.folds else (VALIDATION, TEST))
    for group in allocation.unassigned(dominant):
        allocation.assign(group, TRAIN if split.counts is None else UNUSED)
    allocation.assign_copies()
    allocation.assign_singles()
    return part[group_of]


@dataclass(frozen=True)
class _Allocation:
    """The allocation of groups to parts, while it is made."""

    sizes: np.ndarray
    """(G, K): the images of each group by label."""
    order: np.ndarray
    """(G,): the groups, shuffled; ties are broken in this order."""
    dominant: np.ndarray
    """(G,) bool: groups that count for no quota."""
    quota: np.ndarray
    """(4, K): the images that each part still needs."""
    part: np.ndarray
    """(G,): the part, or -1."""

    def assign(self, group: int, part: int) -> None:
        self.part[group] = part
        if not self.dominant[group]:
            self.quota[part] -= self.sizes[group]

    def unassigned(self, mask: np.ndarray) -> list[int]:
        """The groups of a mask (G,) without a part, in the shuffled order."""
        return [int(g) for g in self.order[mask[self.order] & (self.part[self.order] < 0)]]

    def cover_classes(self, evaluated: tuple[int, ...]) -> None:
        """A group of each class into each evaluated part and train; scarce classes first.

        The smallest possible group is taken.
        """
        several_labels = (self.sizes > 0).sum(axis=1) > 1
        for k in np.argsort((self.sizes > 0).sum(axis=0), kind="stable"):
            has_class = self.sizes[:, k] > 0
            groups = self.unassigned(has_class)
            groups.sort(key=lambda g: (several_labels[g], self.sizes[g].sum()))
            for part in (*sorted(evaluated, key=lambda p: self.quota[p, k]), TRAIN):
                if groups and not (has_class & (self.part == part)).any():
                    self.assign(groups.pop(0), part)

    def assign_copies(self) -> None:
        """Groups of several images, the largest first, to the part that needs them most.

        Those with several labels cannot be scored fairly, and those above a tenth of a part would
        dominate it: they prefer train.
        """
        initial, evaluated = np.maximum(self.quota, 1), slice(VALIDATION, UNUSED)
        totals = self.sizes.sum(axis=1)
        for group in sorted(self.unassigned(totals > 1), key=lambda g: -totals[g]):
            labels = np.flatnonzero(self.sizes[group])
            size, quota = self.sizes[group, labels], self.quota[:, labels]
            fits = (size <= quota).all(axis=1)
            need = (quota / initial[:, labels]).min(axis=1)
            if len(labels) > 1 or (10 * size > initial[evaluated, labels]).any():
                need[TRAIN] = np.inf
            part = int(np.argmax(np.where(fits, need, -1))) if fits.any() else TRAIN
            self.assign(group, part)

    def assign_singles(self) -> None:
        """The remaining images of each class, by the remaining quotas."""
        for k in range(self.sizes.shape[1]):
            groups = self.unassigned(self.sizes[:, k] > 0)
            shares = apportion(len(groups), np.maximum(self.quota[:, k], 0))
            self.part[groups] = np.repeat(range(4), shares)


def _quotas(split: Split, available: np.ndarray, dataset: Dataset) -> np.ndarray:
    """How many of the ``available`` images (K,) each part gets, (4, K). Raises DataError."""
    quota = np.zeros((4, len(available)), np.int64)
    ratios = np.array(split.ratios)
    if split.folds:  # The test part is complete.
        ratios[TEST] = 0
    if split.counts is not None:
        quota[:3] = _count_quotas(split, split.counts, available, dataset)
    elif split.balanced_test:
        # At most half of the smallest class: its training needs some too.
        target = int(ratios[TEST] * available.sum() + 1e-9) // len(available)
        quota[TEST] = max(min(target, int(available.min()) // 2), 1)
        quota[:TEST] = _ratio_quotas(available - quota[TEST], ratios[:TEST])
    else:
        quota[:3] = _ratio_quotas(available, ratios)
    quota[UNUSED] = available - quota[:3].sum(axis=0)
    return quota


def _ratio_quotas(available: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    return np.stack([apportion(int(n), ratios, least=1) for n in available], axis=1)


def _count_quotas(
    split: Split, counts: tuple[int, int, int], available: np.ndarray, dataset: Dataset
) -> np.ndarray:
    """(3, K): each part's count over the classes by their size, or evenly in a balanced test."""
    classes, name = len(available), dataset.name
    request = f"split.counts asks for {sum(counts):,} images"
    if sum(counts) > available.sum():
        raise DataError(f"{name}: {request}, but there are {available.sum():,} that can be split")
    if split.balanced_test and counts[TEST] % classes:
        raise DataError(
            f"{name}: {counts[TEST]} test images cannot be {classes} classes of one size; "
            f"say {max(counts[TEST] // classes, 1) * classes} in split.counts"
        )
    quota = np.zeros((3, classes), np.int64)
    weights = np.ones(classes) if split.balanced_test else available
    for part in (TEST, VALIDATION, TRAIN):
        quota[part] = apportion(counts[part], np.maximum(weights, 0), least=1)
        weights = available = available - quota[part]
    if available.min() < 0:
        scarce = dataset.class_names[np.argmin(available)]
        raise DataError(f"{name}: {request}, too many for class {scarce!r}")
    return quota


def _fold(split: Split, sizes: np.ndarray, order: np.ndarray, dominant: np.ndarray) -> np.ndarray:
    """The groups of this fold. Every class is spread evenly over the folds, as groups allow."""
    images = np.zeros((split.folds, sizes.shape[1]), np.int64)
    several = sizes.sum(axis=1) > 1
    copies, singles = (order[m[order] & ~dominant[order]] for m in (several, ~several))
    by_size = copies[np.argsort(-sizes[copies].sum(axis=1), kind="stable")]
    by_class = singles[np.argsort(sizes[singles].argmax(axis=1), kind="stable")]
    groups = []
    for group in (*by_size, *by_class):
        of_class = images[:, sizes[group] > 0].max(axis=1)
        fold = int(np.lexsort((images.sum(axis=1), of_class))[0])
        images[fold] += sizes[group]
        if fold == split.fold:
            groups.append(int(group))
    return np.array(groups, np.int64)


# --- requirements and subsets --------------------------------------------------------------------


def _require_every_class(part: np.ndarray, dataset: Dataset) -> None:
    for k, name in enumerate(dataset.class_names):
        of_class = dataset.labels == k
        missing = [PARTS[p] for p in range(3) if not (of_class & (part == p)).any()]
        if missing:
            different = len(np.unique(dataset.groups[of_class]))
            copies = f" of {different} different pictures" if different < of_class.sum() else ""
            problem = f"{of_class.sum()} images{copies}; none is left for {' and '.join(missing)}"
            raise DataError(f"{dataset.name}: class {name!r} has {problem}")


def _require_folds(split: Split, sizes: np.ndarray, dataset: Dataset) -> None:
    different = (sizes > 0).sum(axis=0)
    if different.min() < split.folds:
        scarce = int(np.argmin(different))
        raise DataError(
            f"{dataset.name}: class {dataset.class_names[scarce]!r} has {different[scarce]} "
            f"different pictures, too few for {split.folds} folds"
        )


def _subset(ids: np.ndarray, part: int, split: Split, dataset: Dataset) -> np.ndarray:
    """A stratified subset of one part, with a generator of its own: limits are independent."""
    limit: int = getattr(split.subset, PARTS[part])
    if len(ids) <= limit:
        return ids
    labels, classes = dataset.labels[ids], len(dataset.class_names)
    if limit < classes:
        problem = f"subset.{PARTS[part]} is {limit}, but {dataset.name} has {classes} classes"
        raise DataError(problem)
    rng = np.random.default_rng([split.seed, part])
    shares = apportion(limit, np.bincount(labels, minlength=classes), least=1)
    chosen = [rng.permutation(ids[labels == k])[:share] for k, share in enumerate(shares)]
    return np.sort(np.concatenate(chosen))
