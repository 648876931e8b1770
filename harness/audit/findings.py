"""What is wrong with a data set: copies, conflicting labels, pictures of no cell, leaks.

A pure function of images, labels and embeddings. It decides nothing by index or file name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.audit.manifest import Manifest, Removal
from harness.audit.outliers import SIMILAR, Isolation, Outlier, find_outliers, similar_to
from harness.data.duplicates import repeated
from harness.data.image_cache import Provenance
from harness.data.splitting import PARTS
from harness.schema.dataset import Dataset

Kind = Literal[
    "not-a-cell", "constant", "unreadable",
    "several-labels", "exact-copies", "near-copies", "leak", "isolated",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
REMOVED: tuple[Kind, ...] = ("not-a-cell", "constant", "unreadable")
"""Removed by default: no cell can be learnt from them. All else is only reported."""
REMOVABLE = tuple(kind for kind in KINDS if kind != "isolated")

CONSTANT_DEVIATION = 2.0
"""Standard deviation of all pixel values below which an image shows nothing."""
ISOLATED_SHOWN = 16
"""The most isolated single images that are reported."""


@dataclass(frozen=True)
class Finding:
    """Some images and what is wrong with them."""

    kind: Kind
    ids: NDArray[np.int64]
    """The images concerned, rising."""
    removable: NDArray[np.int64]
    """Those that are removed if findings of this kind are."""
    reason: str


@dataclass(frozen=True)
class PixelStatistics:
    """Of all readable images together: the range, and mean and deviation of each channel."""

    darkest: int
    brightest: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    sizes: dict[tuple[int, int], int]
    """(height, width) in the source -> images; the commonest first."""


@dataclass(frozen=True)
class Audit:
    """All findings of one data set, ordered by kind."""

    findings: tuple[Finding, ...]
    outliers: tuple[Outlier, ...]
    pixels: PixelStatistics

    def findings_of(self, kind: Kind) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def removals(self, kinds: Collection[str] = REMOVED) -> dict[int, Finding]:
        """Id -> the first finding because of which it is removed; by rising id."""
        removals: dict[int, Finding] = {}
        for finding in self.findings:
            if finding.kind in kinds:
                for i in finding.removable.tolist():
                    removals.setdefault(i, finding)
        return dict(sorted(removals.items()))

    def manifest(self, origin: Provenance, kinds: Collection[str] = REMOVED) -> Manifest:
        """The removals in the form that ``clean = true`` applies."""
        return Manifest(
            tuple(
                Removal(
                    i,
                    origin.digests[i].tobytes().hex(),
                    finding.kind,
                    finding.reason,
                    origin.files[i] if origin.files else "",
                )
                for i, finding in self.removals(kinds).items()
            )
        )


def audit_dataset(
    dataset: Dataset,
    origin: Provenance,
    embeddings: np.ndarray,
    near_groups: np.ndarray,
    not_cells: Sequence[int] = (),
    similar: float = SIMILAR,
) -> Audit:
    """Every finding of a data set.

    ``embeddings`` float32 (N, width) of any backbone; ``near_groups`` (N,) of near-duplicates;
    ``not_cells``: images that are known to show no cell, of which similar ones are reported too;
    ``similar``: the cosine similarity from which on they are.
    An image that shows no cell or nothing, or cannot be read, is not reported again as a copy.
    """
    pixels, constant = _pixel_statistics(dataset, origin)
    unreadable = np.array(sorted(origin.unreadable), np.int64)
    remaining = np.setdiff1d(np.arange(len(dataset)), np.union1d(constant, unreadable))
    outliers = similar_to(not_cells, embeddings, remaining, similar)
    for outlier in outliers:
        remaining = np.setdiff1d(remaining, outlier.ids)
    discovered, isolation = find_outliers(
        embeddings, near_groups, dataset.groups, remaining, similar
    )
    outliers += discovered
    for outlier in discovered:
        remaining = np.setdiff1d(remaining, outlier.ids)
    first_exact = _first_with_same_pixels(origin.digests)
    findings = [
        *(_not_a_cell(outlier, dataset, origin) for outlier in outliers),
        *(_constant(i, dataset) for i in np.setdiff1d(constant, unreadable).tolist()),
        *(_single("unreadable", i, f"cannot be read: {origin.unreadable[i]}") for i in unreadable),
    ]
    for ids in repeated(near_groups):
        findings += _copies(np.intersect1d(ids, remaining), dataset, origin, first_exact)
    findings += _isolated(isolation, remaining)
    findings.sort(key=lambda finding: KINDS.index(finding.kind))
    return Audit(tuple(findings), outliers, pixels)


# --- single images -------------------------------------------------------------------------------


def _pixel_statistics(
    dataset: Dataset, origin: Provenance
) -> tuple[PixelStatistics, NDArray[np.int64]]:
    """Of the readable images, and the ids of those with nearly one colour."""
    readable = np.setdiff1d(np.arange(len(dataset)), list(origin.unreadable))
    moments = np.zeros((len(readable), 2, 3))
    darkest, brightest = 255, 0
    for row, i in enumerate(readable):
        image = np.asarray(dataset.images[i])
        moments[row] = np.squeeze(cv2.meanStdDev(image), axis=-1)
        darkest, brightest = min(darkest, int(image.min())), max(brightest, int(image.max()))
    means, variances = moments[:, 0], moments[:, 1] ** 2
    constant = readable[variances.mean(axis=1) < CONSTANT_DEVIATION**2]
    mean, deviation = np.zeros(3), np.zeros(3)
    if len(readable):
        mean, deviation = means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))
    sizes = Counter(map(tuple, origin.sizes[readable].tolist()))
    statistics = PixelStatistics(
        darkest,
        brightest,
        tuple(mean.tolist()),
        tuple(deviation.tolist()),
        dict(sizes.most_common()),
    )
    return statistics, constant


def _single(kind: Kind, i: int, reason: str) -> Finding:
    return Finding(kind, np.array([i]), np.array([i]), reason)


def _constant(i: int, dataset: Dataset) -> Finding:
    colour = ", ".join(f"{value:.0f}" for value in np.asarray(dataset.images[i]).mean(axis=(0, 1)))
    return _single("constant", i, f"nearly one colour: ({colour}) on average")


def _isolated(isolation: Isolation, ids: NDArray[np.int64]) -> Iterator[Finding]:
    """The single images that are least similar to any other."""
    single = np.flatnonzero((isolation.sizes == 1) & np.isin(isolation.firsts, ids))
    order = np.argsort(isolation.similarity[single], kind="stable")[:ISOLATED_SHOWN]
    for g in single[order]:
        reason = f"the most similar other image has similarity {isolation.similarity[g]:.2f}"
        yield Finding("isolated", isolation.firsts[g : g + 1], np.empty(0, np.int64), reason)


# --- groups of near-duplicates -------------------------------------------------------------------


def _not_a_cell(outlier: Outlier, dataset: Dataset, origin: Provenance) -> Finding:
    labels = np.unique(dataset.labels[outlier.ids])
    label = (
        f"label {dataset.class_names[labels[0]]}" if len(labels) == 1 else f"{len(labels)} labels"
    )
    image = origin.name_of(outlier.prototype)
    group = f"images similar to {image}, as given" if outlier.given else f"copies of {image}"
    reason = (
        f"no cell in the picture: one of {len(outlier.ids):,} {group}, with {label}; the "
        f"most similar other image has similarity {outlier.nearest:.2f}"
    )
    return Finding("not-a-cell", outlier.ids, outlier.ids, reason)


def _first_with_same_pixels(digests: np.ndarray) -> NDArray[np.int64]:
    """(N,): the first image with the same pixels in the source, at whatever size it has there."""
    _, first, which = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[which.reshape(-1)], np.int64)


def _copies(
    ids: NDArray[np.int64], dataset: Dataset, origin: Provenance, first_exact: NDArray[np.int64]
) -> Iterator[Finding]:
    """The findings of the images that show one picture."""
    if len(ids) < 2:
        return
    firsts = first_exact[ids]
    exact = bool((firsts == firsts[0]).all())
    copies = f"{'exact' if exact else 'near'} copies"
    labels = np.unique(dataset.labels[ids])
    if len(labels) > 1:
        names = " and ".join(dataset.class_names[k] for k in labels)
        yield Finding("several-labels", ids, ids, f"{copies} labelled as {names}")
    for same in repeated(firsts):
        first, *others = ids[same]
        yield Finding(
            "exact-copies",
            ids[same],
            np.array(others),
            f"the same pixels as {origin.name_of(first)}",
        )
    if not exact:
        yield Finding(
            "near-copies", ids, ids[1:], f"nearly the same picture as {origin.name_of(ids[0])}"
        )
    if dataset.given is not None:
        part = dataset.given[ids]
        if len(parts := np.unique(part)) > 1:
            names = " and ".join(PARTS[p] for p in parts)
            # The copy of the last part, the test, stays.
            yield Finding("leak", ids, ids[part < parts[-1]], f"{copies} in {names}")
