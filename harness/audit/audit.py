"""What is wrong with a data set: copies, several labels for one picture, what is no cell, leaks.

A pure function of images, labels and features. It decides nothing by index or file name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harness.audit.duplicates import families, members
from harness.audit.manifest import Manifest, Removal
from harness.audit.outliers import Isolation, Outlier, alike, find_outliers
from harness.data.image_cache import Provenance
from harness.data.splitting import PARTS
from harness.schema.dataset import Dataset

Kind = Literal[
    "not-a-cell", "constant", "unreadable",
    "several-labels", "exact-copies", "near-copies", "leak", "lonely",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

REMOVED: tuple[Kind, ...] = ("not-a-cell", "constant", "unreadable")
"""What goes unless told otherwise: it can teach a network nothing. All else is only reported."""

REMOVABLE = tuple(kind for kind in KINDS if kind != "lonely")

CHANNELS = ("red", "green", "blue")

FLAT = 2.0
"""Standard deviation of all pixel values below which an image shows nothing."""

LONELY = 16
"""How many of the pictures least like any other are shown."""


@dataclass(frozen=True)
class Finding:
    """Some images and what is wrong with them."""

    kind: Kind
    ids: NDArray[np.int64]
    """The images concerned, rising."""
    excess: NDArray[np.int64]
    """Those of them that go if findings of this kind are removed."""
    reason: str


@dataclass(frozen=True)
class Pixels:
    """Of all readable images together: the range, and mean and deviation of each channel."""

    darkest: int
    brightest: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    sizes: dict[tuple[int, int], int]
    """(height, width) in the source -> images; the commonest first."""


@dataclass(frozen=True)
class Audit:
    """All findings of one data set, with what they rest on."""

    findings: tuple[Finding, ...]
    family: NDArray[np.int64]
    """(N,): the first image that shows the same picture."""
    outliers: tuple[Outlier, ...]
    loneliness: Isolation
    pixels: Pixels

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def removed(self, kinds: Collection[str] = REMOVED) -> dict[int, Finding]:
        """Id -> the first finding because of which it goes; by rising id."""
        goes: dict[int, Finding] = {}
        for finding in self.findings:
            if finding.kind in kinds:
                for i in finding.excess.tolist():
                    goes.setdefault(i, finding)
        return dict(sorted(goes.items()))

    def manifest(self, origin: Provenance, kinds: Collection[str] = REMOVED) -> Manifest:
        """What ``clean = true`` applies."""
        return Manifest(
            tuple(
                Removal(i, origin.digests[i].tobytes().hex(), finding.kind, finding.reason)
                for i, finding in self.removed(kinds).items()
            )
        )


def audit(
    dataset: Dataset,
    origin: Provenance,
    features: np.ndarray,
    family: np.ndarray,
    named: Sequence[int] = (),
) -> Audit:
    """Every finding of a data set.

    ``features`` float32 (N, width) of any backbone; ``family`` from
    harness.audit.duplicates; ``named``:
    images that somebody knows to be no cells, and what is like them goes as well. An image that is
    no cell, shows nothing or cannot be read is not reported again as a copy.
    """
    pixels, blank = _look_through(dataset, origin)
    unreadable = np.array(sorted(origin.unreadable), np.int64)
    found = [_unreadable(i, origin) for i in unreadable.tolist()]
    found += [_constant(i, dataset) for i in np.setdiff1d(blank, unreadable).tolist()]
    nothing = np.union1d(blank, unreadable)
    something = np.setdiff1d(np.arange(len(dataset)), nothing)
    like = alike(features, named, something)
    for one in like:
        something = np.setdiff1d(something, one.ids)
    discovered, lonely = find_outliers(features, family, dataset.groups, something)
    odd = (*like, *discovered)
    found = [_no_cell(one, dataset) for one in odd] + found
    usual = np.ones(len(dataset), bool)
    usual[nothing] = False
    for one in odd:
        usual[one.ids] = False
    same = _first_of_each(origin.digests)
    for ids in members(family):
        found += _copies(ids[usual[ids]], dataset, same)
    found += _lonely(lonely, usual)
    found.sort(key=lambda finding: KINDS.index(finding.kind))
    return Audit(tuple(found), family, odd, lonely, pixels)


# --- single images -------------------------------------------------------------------------------


def _look_through(dataset: Dataset, origin: Provenance) -> tuple[Pixels, NDArray[np.int64]]:
    """The pixels of all images, one after another, and the ids of those that show nothing."""
    import cv2

    readable = np.ones(len(dataset), bool)
    readable[list(origin.unreadable)] = False
    moments = np.zeros((len(dataset), 2, 3))
    darkest, brightest = 255, 0
    for i in np.flatnonzero(readable).tolist():
        image = np.asarray(dataset.images[i])
        mean, deviation = cv2.meanStdDev(image)
        moments[i] = mean[:, 0], deviation[:, 0]
        darkest, brightest = min(darkest, int(image.min())), max(brightest, int(image.max()))
    means, variances = moments[readable, 0], moments[readable, 1] ** 2
    blank = np.flatnonzero(readable & ((moments[:, 1] ** 2).mean(axis=1) < FLAT**2))
    mean, deviation = np.zeros(3), np.zeros(3)
    if readable.any():
        mean = means.mean(axis=0)
        deviation = np.sqrt(variances.mean(axis=0) + means.var(axis=0))
    shapes, number = np.unique(origin.sizes[readable], axis=0, return_counts=True)
    order = np.argsort(-number, kind="stable")
    sizes = {(int(shapes[k, 0]), int(shapes[k, 1])): int(number[k]) for k in order}
    told = Pixels(darkest, brightest, tuple(mean.tolist()), tuple(deviation.tolist()), sizes)
    return told, blank


def _unreadable(i: int, origin: Provenance) -> Finding:
    one = np.array([i])
    return Finding("unreadable", one, one, f"cannot be read: {origin.unreadable[i]}")


def _constant(i: int, dataset: Dataset) -> Finding:
    one = np.array([i])
    colour = ", ".join(f"{value:.0f}" for value in np.asarray(dataset.images[i]).mean(axis=(0, 1)))
    return Finding("constant", one, one, f"shows nothing: all of it is about ({colour})")


def _lonely(lonely: Isolation, usual: np.ndarray) -> Iterator[Finding]:
    """The single pictures that are least like any other: worth a look, no more."""
    single = (lonely.sizes == 1) & usual[lonely.firsts]
    for f in np.argsort(np.where(single, lonely.similarity, np.inf), kind="stable")[:LONELY]:
        if single[f]:
            nearest = f"{lonely.similarity[f]:.2f}"
            ids = lonely.firsts[f : f + 1]
            yield Finding(
                "lonely", ids, ids[:0], f"like no other: its nearest has similarity {nearest}"
            )


# --- families ------------------------------------------------------------------------------------


def _no_cell(one: Outlier, dataset: Dataset) -> Finding:
    labels = np.unique(dataset.labels[one.ids])
    under = f"{len(labels)} labels" if len(labels) > 1 else dataset.class_names[labels[0]]
    image = f"image {one.prototype}"
    what = f"like {image}, which was named" if one.named else f"copies of {image}"
    reason = (
        f"not a cell: one of {len(one.ids):,} {what}, under {under}; "
        f"the nearest other picture has similarity {one.nearest:.2f}"
    )
    return Finding("not-a-cell", one.ids, one.ids, reason)


def _first_of_each(digests: np.ndarray) -> NDArray[np.int64]:
    """(N,): the first image with the same pixels in the source, at whatever size it has there."""
    _, first, which = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[which.reshape(-1)], np.int64)


def _copies(ids: NDArray[np.int64], dataset: Dataset, same: NDArray[np.int64]) -> Iterator[Finding]:
    """What there is to say of the images that show one picture."""
    if len(ids) < 2:
        return
    groups = same[ids]
    exact = len(np.unique(groups)) == 1
    how = "the same pixels" if exact else "the same picture"
    labels = np.unique(dataset.labels[ids])
    if len(labels) > 1:
        names = " and ".join(dataset.class_names[k] for k in labels)
        yield Finding("several-labels", ids, ids, f"{how} as {names}")
    yield from _exact(ids, groups)
    if not exact:
        yield Finding("near-copies", ids, ids[1:], f"the same picture as image {ids[0]}, nearly")
    if dataset.given is not None:
        yield from _leaks(ids, dataset.given[ids], how)


def _exact(ids: NDArray[np.int64], groups: NDArray[np.int64]) -> Iterator[Finding]:
    for group in np.unique(groups):
        same = ids[groups == group]
        if len(same) > 1:
            yield Finding("exact-copies", same, same[1:], f"the same pixels as image {same[0]}")


def _leaks(ids: NDArray[np.int64], part: np.ndarray, how: str) -> Iterator[Finding]:
    """A picture on both sides of a given split; the test's copy is the one that stays."""
    parts = np.unique(part)
    if len(parts) > 1:
        names = " and ".join(PARTS[p] for p in parts)
        yield Finding("leak", ids, ids[part < parts[-1]], f"{how} in {names}")


def near_duplicate_groups(dataset: Dataset) -> NDArray[np.int64]:
    """(N,): the first image that shows the same picture as each; its own index if it is unique."""
    return families(dataset.images, dataset.groups)
