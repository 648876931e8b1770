"""Outliers: pictures that show no cell, found without a hint of where or what they are.

Report 003 picked two such pictures by hand and took every image whose features (VGG16) have a
cosine similarity above 0.8 with one of them. Here the prototypes are discovered: a picture that
occurs again and again while nothing but its own copies comes near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIMILAR = 0.8
"""Cosine similarity of embeddings above which two pictures are of one kind (report 003)."""
CHANCE = 0.05
"""Probability of taking an ordinary picture, repeated and isolated by chance, for an outlier."""
DEVIATIONS = 4.5
"""By which an outlier's angle to its nearest picture exceeds the mean of less repeated pictures.
Ordinary cells that are repeated reach 3.9 (200 pairs in small embedded sets, where chance is
largest), outliers there 6.6 and more; the two of the challenge's file, as it is rebuilt for the
tests, 5.4 and 11."""
LEAST_COPIES = 5
"""Of a picture before it can be an outlier. A cell may be copied by hand and be isolated by chance:
when two copies were enough, 2 to 7 of 300 small sets with one copied pair lost a cell. With fewer
copies pictures are reported as copies, and stay."""
STRAGGLERS = 0.01
"""Of a group's size: so many other pictures may come near it, being copies that were not
recognised as such. They stay."""

_ROWS, _GROUPS = 1024, 64


@dataclass(frozen=True)
class Outlier:
    """A group of images that show no cell: near-duplicates of each other, or similar to one."""

    prototype: int
    """The id whose embedding stands for the group: of its most frequent pixels."""
    ids: NDArray[np.int64]
    nearest: float
    """Cosine similarity of the nearest other picture to any of the group."""
    given: bool = False
    """The user named the prototype, as in report 003; else it was discovered."""


@dataclass(frozen=True)
class Isolation:
    """Of each near-duplicate group, similarity to the nearest that is not more repeated.

    ``firsts`` (G,): their first images; ``sizes`` (G,): their images; ``similarity`` float32 (G,).
    """

    firsts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    similarity: NDArray[np.float32]


def find_outliers(
    embeddings: np.ndarray,
    near_groups: np.ndarray,
    groups: np.ndarray,
    ids: NDArray[np.int64],
    similar: float = SIMILAR,
) -> tuple[tuple[Outlier, ...], Isolation]:
    """The near-duplicate groups among ``ids`` that show no cell, the largest first; the isolation
    of all others.

    ``embeddings`` float32 (N, width) of any backbone; ``near_groups`` and ``groups`` (N,) of
    near-duplicates and of equal pixels. An outlier is a group of LEAST_COPIES of which none has
    a picture within ``similar`` (but those that are still more repeated), and whose isolation is
    too rare among less repeated pictures to be chance: DEVIATIONS beyond their mean, and of a share
    that, times the number of repeated groups (Bonferroni), is at most CHANCE. Then the rest is
    searched again, because outliers may be similar to each other.
    """
    outliers: list[Outlier] = []
    while True:
        more, isolation = _find_once(embeddings, near_groups, groups, ids, similar)
        if not more:
            outliers.sort(key=lambda outlier: (-len(outlier.ids), outlier.prototype))
            return tuple(outliers), isolation
        outliers += more
        ids = np.setdiff1d(ids, np.concatenate([outlier.ids for outlier in more]))


def _find_once(
    embeddings: np.ndarray,
    near_groups: np.ndarray,
    groups: np.ndarray,
    ids: NDArray[np.int64],
    similar: float,
) -> tuple[list[Outlier], Isolation]:
    firsts, owner, sizes = np.unique(near_groups[ids], return_inverse=True, return_counts=True)
    # Images with equal pixels have equal embeddings: one of each is enough.
    _, distinct = np.unique(groups[ids], return_index=True)
    similarity = _isolation(embeddings[ids[distinct]], owner[distinct], sizes)
    angle = np.arccos(np.clip(similarity, -1, 1))
    repeated = np.flatnonzero(sizes >= LEAST_COPIES)
    outliers = []
    for g in repeated:
        less = sizes < sizes[g]
        if not less.any():
            continue  # Everything is repeated as often: nothing to compare with.
        rarity = np.mean(similarity[less] <= similarity[g])
        far = angle[g] > angle[less].mean() + DEVIATIONS * angle[less].std()
        if similarity[g] < similar and far and rarity * len(repeated) <= CHANCE:
            members = ids[owner == g]
            pixels, counts = np.unique(groups[members], return_counts=True)
            prototype = int(pixels[np.argmax(counts)])
            outliers.append(Outlier(prototype, members, float(similarity[g])))
    return outliers, Isolation(firsts, sizes, similarity)


def _isolation(embeddings: np.ndarray, owner: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Of each group (G,), the similarity of its nearest picture that is not more repeated.

    ``embeddings`` (n, width) of different pictures, ``owner`` (n,) their groups, ``sizes`` (G,).
    As many stragglers as its size allows are passed over. -1 without other pictures.
    """
    from sklearn.preprocessing import normalize

    vectors = normalize(embeddings).astype(np.float32) if len(embeddings) else embeddings
    nearest = np.full(len(sizes), -1, np.float32)
    size = sizes[owner]
    nearest[owner[size == 1]] = _nearest_similarity(vectors[size == 1])
    repeated = np.flatnonzero(sizes > 1)
    for start in range(0, len(repeated), _GROUPS):
        some = repeated[start : start + _GROUPS]
        rows = np.flatnonzero(np.isin(owner, some))
        similarity = vectors[rows] @ vectors.T
        for g in some:
            others = (size <= sizes[g]) & (owner != g)
            of_group = similarity[owner[rows] == g].max(axis=0)[others]
            stragglers = int(STRAGGLERS * sizes[g])
            if stragglers < len(of_group):
                nearest[g] = np.partition(of_group, -1 - stragglers)[-1 - stragglers]
    return nearest


def _nearest_similarity(vectors: np.ndarray) -> NDArray[np.float32]:
    """Of each unit vector (n, width), its product with the nearest other; -1 without others."""
    nearest = np.full(len(vectors), -1, np.float32)
    for start in range(0, len(vectors), _ROWS):
        rows, rest = slice(start, start + _ROWS), slice(start, None)
        similarity = vectors[rows] @ vectors[rest].T
        np.fill_diagonal(similarity, -1)
        # Each pair is multiplied once and counts for both.
        nearest[rows] = np.maximum(nearest[rows], similarity.max(axis=1))
        nearest[rest] = np.maximum(nearest[rest], similarity.max(axis=0))
    return nearest


def similar_to(
    prototypes: Sequence[int],
    embeddings: np.ndarray,
    ids: NDArray[np.int64],
    threshold: float = SIMILAR,
) -> tuple[Outlier, ...]:
    """For each prototype, the images among ``ids`` with a similarity of at least the threshold."""
    outliers: list[Outlier] = []
    for prototype in prototypes:
        similarity = cosine_similarity(embeddings, prototype)[ids]
        similarity[ids == prototype] = 1
        similar = similarity >= threshold
        nearest = float(similarity[~similar].max(initial=-1))
        if similar.any():
            outliers.append(Outlier(prototype, ids[similar], nearest, given=True))
        ids = ids[~similar]
    return tuple(outliers)


def cosine_similarity(embeddings: np.ndarray, prototype: int) -> NDArray[np.float32]:
    """Of every image to one: (N,)."""
    from sklearn.preprocessing import normalize

    vectors = normalize(embeddings)
    return np.asarray(vectors @ vectors[prototype], np.float32)
