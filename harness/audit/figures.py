"""Figures of an audit: sheets of its findings, similarity to a prototype, maps of the embeddings.

Each is a PNG, as bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.audit.findings import Audit, Kind
from harness.audit.outliers import Outlier, cosine_similarity
from harness.data.contact_sheet import GAP, MARGIN, Row, Tile, draw
from harness.data.fonts import legible
from harness.schema.dataset import Dataset

SIDE = 96
"""Pixels of a thumbnail."""
SHEET_WIDTH = 1080
"""Pixels."""
MAPPED = 1200
"""Images without findings on the t-SNE map; more would take longer than the audit."""
MAPPED_COPIES = 40
"""Of one picture on that map; all of them would push everything else aside."""

COLOURS: dict[Kind, str] = {
    "not-a-cell": "#d62728",
    "constant": "#000000",
    "unreadable": "#000000",
    "several-labels": "#ff7f0e",
    "exact-copies": "#1f77b4",
    "near-copies": "#2ca02c",
    "leak": "#8c564b",
    "isolated": "#9467bd",
}
NO_FINDING = "#c9c9cf"


def contact_sheet(dataset: Dataset, groups: Sequence[NDArray[np.int64]]) -> bytes:
    """Groups of images side by side, each image with its index and label."""
    step, inner = SIDE + GAP, SHEET_WIDTH - 2 * MARGIN
    rows: list[list[Tile | None]] = [[]]
    x = 0
    for ids in groups:
        for some in np.split(ids, range(inner // step, len(ids), inner // step)):
            if x and x + MARGIN + len(some) * step > inner:
                rows.append([])
                x = 0
            if x:
                rows[-1].append(None)
                x += MARGIN
            rows[-1] += [
                Tile(
                    np.asarray(dataset.images[i]),
                    (f"image {i:,}", dataset.class_names[dataset.labels[i]]),
                )
                for i in some.tolist()
            ]
            x += len(some) * step
    buffer = io.BytesIO()
    draw([Row(tiles) for tiles in rows], SIDE, width=SHEET_WIDTH).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def similarity_histogram(embeddings: np.ndarray, outlier: Outlier, similar: float) -> bytes:
    """How similar every image is to a prototype, its copies apart from all others."""
    values = cosine_similarity(embeddings, outlier.prototype)
    copy = np.isin(np.arange(len(values)), outlier.ids)
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(min(0.0, float(values.min())), 1.0, 81).tolist()
    axes.hist(values[~copy], bins, color=NO_FINDING, label="all other images")
    axes.hist(values[copy], bins, color=COLOURS["not-a-cell"], label="its copies")
    axes.axvline(similar, color="#666666", linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set(xlabel=f"cosine similarity to image {outlier.prototype:,}", ylabel="images")
    axes.legend(frameon=False, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


@dataclass(frozen=True)
class Map:
    """Some images in two dimensions: ``ids`` (n,) and ``positions`` (n, 2)."""

    title: str
    ids: NDArray[np.int64]
    positions: np.ndarray


def embedding_maps(dataset: Dataset, embeddings: np.ndarray, audit: Audit) -> tuple[Map, Map]:
    """The embeddings in two dimensions: by PCA, all images; by t-SNE, a share of them.

    PCA and t-SNE (van der Maaten, Hinton 2008) are scikit-learn's, from a fixed seed.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    components = min(30, *embeddings.shape)
    pca = PCA(components, svd_solver="randomized", random_state=0)
    reduced = pca.fit_transform(normalize(embeddings))
    ids = mapped(dataset, audit)
    perplexity = min(30.0, (len(ids) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=400)
    with threadpool_limits(1):  # So few points that threads only wait for each other.
        positions = tsne.fit_transform(reduced[ids])
    return (
        Map(f"PCA, all {len(dataset):,} images", np.arange(len(dataset)), reduced[:, :2]),
        Map(f"t-SNE, {len(ids):,} images", ids, positions),
    )


def mapped(dataset: Dataset, audit: Audit) -> NDArray[np.int64]:
    """The images of the t-SNE map: those with findings, a few of each, and some others."""
    rng = np.random.default_rng(0)
    some = [rng.permutation(finding.ids)[:MAPPED_COPIES] for finding in audit.findings]
    concerned = [finding.ids for finding in audit.findings]
    others = np.setdiff1d(np.arange(len(dataset)), np.concatenate([np.empty(0, int), *concerned]))
    return np.unique(np.concatenate([*some, rng.permutation(others)[:MAPPED]])).astype(np.int64)


def draw_map(one: Map, dataset: Dataset, audit: Audit) -> bytes:
    """One map twice: coloured by class, and by finding."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _scatter_by_class(left, one, dataset)
    _scatter_by_finding(right, one, audit)
    for axes, name in ((left, "class"), (right, "finding")):
        axes.set_title(f"{one.title}, by {name}", fontsize=10, color="#333333")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#dddddd")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _png(figure)


def _scatter_by_class(axes: Axes, one: Map, dataset: Dataset) -> None:
    names = dataset.class_names
    palette = "tab10" if len(names) <= 10 else "nipy_spectral"
    colours = colormaps[palette].resampled(max(10, len(names)))(range(len(names)))
    # In a shuffled order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(one.ids))
    x, y = one.positions[order].T
    axes.scatter(x, y, s=4, c=colours[dataset.labels[one.ids[order]]], linewidths=0)
    if len(names) <= 20:
        for name, colour in zip(names, colours, strict=True):
            axes.scatter([], [], s=20, color=colour, label=name)


def _scatter_by_finding(axes: Axes, one: Map, audit: Audit) -> None:
    x, y = one.positions.T
    axes.scatter(x, y, s=4, color=NO_FINDING, linewidths=0, label="no finding")
    for kind, colour in reversed(COLOURS.items()):
        ids = [finding.ids for finding in audit.findings_of(kind)]
        shown = np.isin(one.ids, np.concatenate(ids)) if ids else np.zeros(len(one.ids), bool)
        if shown.any():
            x, y = one.positions[shown].T
            axes.scatter(x, y, s=14, color=colour, linewidths=0, label=kind.replace("-", " "))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with legible(figure):
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": "wbc-bench"})
    return buffer.getvalue()
