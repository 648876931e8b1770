"""Pictures of an audit: sheets of its findings, similarity to a prototype, maps of the features."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.audit.audit import Audit, Kind
from harness.audit.outliers import NEAR, Outlier, similarity_to
from harness.data.contact_sheet import FAINT, GAP, INK, MARGIN, PAPER
from harness.data.image_cache import square
from harness.schema.dataset import Dataset

SIDE = 96
"""Pixels of a thumbnail."""

PAGE = 1080
"""Pixels of a sheet's width."""

MAPPED = 1200
"""Images on the t-SNE map beside those with findings; more would take longer than the audit."""

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
    "lonely": "#9467bd",
}
USUAL = "#c9c9cf"

Card = tuple[tuple[int, str], ...]
"""Images that belong together: each with what to write below it."""


def sheet(dataset: Dataset, cards: Sequence[Card], width: int = PAGE) -> bytes:
    """A PNG of cards side by side, each a row of captioned thumbnails; wide ones are broken."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(12)
    step, tall = SIDE + GAP, SIDE + 2 * 15 + MARGIN // 2
    placed, x, y = [], MARGIN, MARGIN
    for card in cards:
        if x > MARGIN and x + len(card) * step > width - MARGIN:
            x, y = MARGIN, y + tall
        for i, caption in card:
            if x + step > width - MARGIN + GAP:
                x, y = MARGIN, y + tall
            placed.append((i, caption, x, y))
            x += step
        x += MARGIN
    picture = Image.new("RGB", (width, y + tall + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(picture)
    for i, caption, left, top in placed:
        thumbnail = square(np.asarray(dataset.images[i]), SIDE)
        picture.paste(Image.fromarray(thumbnail), (left, top))
        draw.text((left, top + SIDE + 3), f"image {i:,}", FAINT, font)
        draw.text((left, top + SIDE + 17), _fitting(caption, font), INK, font)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fitting(text: str, font: object) -> str:
    while font.getlength(text) > SIDE and len(text) > 4:  # type: ignore[attr-defined]
        text = f"{text[:-4]}..."
    return text


def similarity(features: np.ndarray, stranger: Outlier) -> bytes:
    """A PNG: how similar every image is to one prototype, its copies apart from all others."""
    values = similarity_to(features, stranger.prototype)
    copy = np.zeros(len(values), bool)
    copy[stranger.ids] = True
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(min(0.0, float(values.min())), 1.0, 81).tolist()
    axes.hist(values[~copy], bins, color=USUAL, label="all other images")
    axes.hist(values[copy], bins, color=COLOURS["not-a-cell"], label="its copies")
    axes.axvline(NEAR, color="#666666", linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set(xlabel=f"cosine similarity to image {stranger.prototype:,}", ylabel="images")
    axes.legend(frameon=False, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


@dataclass(frozen=True)
class Map:
    """Points of a 2-D map: which images, and where (n, 2)."""

    title: str
    ids: NDArray[np.int64]
    places: np.ndarray


def maps(dataset: Dataset, features: np.ndarray, audit: Audit) -> tuple[Map, Map]:
    """The features in two dimensions: by PCA, all images; by t-SNE, a share of them.

    PCA and t-SNE (van der Maaten, Hinton 2008) are scikit-learn's, from a fixed seed.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    size = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.maximum(size, 1e-12)
    components = min(30, *directions.shape)
    pca = PCA(components, svd_solver="randomized", random_state=0)
    reduced = pca.fit_transform(directions)
    everything = np.arange(len(dataset))
    first = Map(f"PCA, all {len(dataset):,} images", everything, reduced[:, :2])
    ids = mapped(dataset, audit)
    perplexity = min(30.0, (len(ids) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=400)
    with threadpool_limits(1):  # So few points that threads only wait for each other.
        places = tsne.fit_transform(reduced[ids])
    return first, Map(f"t-SNE, {len(ids):,} images", ids, places)


def mapped(dataset: Dataset, audit: Audit) -> NDArray[np.int64]:
    """The images of the t-SNE map: those with findings, not too many alike, and some others."""
    rng = np.random.default_rng(0)
    special = [rng.permutation(f.ids)[:MAPPED_COPIES] for f in audit.findings]
    concerned = np.unique(np.concatenate([f.ids for f in audit.findings] or [np.empty(0, int)]))
    others = np.setdiff1d(np.arange(len(dataset)), concerned)
    return np.unique(np.concatenate([*special, rng.permutation(others)[:MAPPED]])).astype(np.int64)


def draw_map(one: Map, dataset: Dataset, audit: Audit) -> bytes:
    """A PNG of one map, twice: coloured by class, and by finding."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _by_class(left, one, dataset)
    _by_finding(right, one, audit)
    for axes, by in ((left, "class"), (right, "finding")):
        axes.set_title(f"{one.title}, by {by}", fontsize=10, color="#333333")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#dddddd")
    return png(figure)


def _by_class(axes: Axes, one: Map, dataset: Dataset) -> None:
    from matplotlib import colormaps

    names = dataset.class_names
    palette = colormaps["tab10" if len(names) <= 10 else "nipy_spectral"]
    labels = dataset.labels[one.ids]
    # In a shuffled order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(labels))
    shades = np.array(
        [palette(k if len(names) <= 10 else k / len(names)) for k in range(len(names))]
    )
    x, y = one.places[order].T
    axes.scatter(x, y, s=4, c=shades[labels[order]], linewidths=0)
    if len(names) <= 20:
        for k, name in enumerate(names):
            axes.scatter([], [], s=20, color=shades[k], label=name)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _by_finding(axes: Axes, one: Map, audit: Audit) -> None:
    where = {int(i): place for i, place in zip(one.ids, one.places, strict=True)}
    x, y = one.places.T
    axes.scatter(x, y, s=4, color=USUAL, linewidths=0, label="no finding")
    for kind, colour in reversed(COLOURS.items()):
        ids = {int(i) for finding in audit.of(kind) for i in finding.ids}
        spots = np.array([where[i] for i in sorted(ids) if i in where])
        if len(spots):
            label = kind.replace("-", " ")
            x, y = spots.T
            axes.scatter(x, y, s=14, color=colour, linewidths=0, label=label)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": "wbc-bench"})
    return buffer.getvalue()
