"""Data sets: prepare one for a command, and what the subcommands of ``data`` do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from tabulate import tabulate

from harness.audit import pipeline
from harness.audit.embeddings import Embedder
from harness.audit.outliers import SIMILAR
from harness.audit.pipeline import AuditOptions
from harness.commands.console import plain_console, updater
from harness.commands.settings import DataOptions, Settings, load_settings
from harness.data.image_cache import open_dataset, provenance
from harness.data.sampling import sample_indices
from harness.data.splitting import effective_split, split_csv, split_indices
from harness.errors import UnknownName, UserError, path_error
from harness.schema.dataset import Dataset, ImageIdentities
from harness.schema.protocol import Loss
from harness.storage.files import write_atomically
from harness.sweep.weights import fetched
from harness.training.losses import class_weights
from zoo.registry import find


@dataclass(frozen=True)
class PreparedData:
    """A decoded data set, cleaned and masked where the settings say so, and its folder."""

    dataset: Dataset
    folder: Path


def prepare(
    settings: Settings, on_progress: Callable[[str], object] = lambda _: None
) -> PreparedData:
    """Decode, clean and mask the data set of the settings, or take it from the cache.

    Raises DataError.
    """
    benchmark, workspace = settings.benchmark, replace(settings.workspace, on_progress=on_progress)
    folder = pipeline.prepare_data(benchmark.data, benchmark.protocol.image_size, workspace)
    return PreparedData(open_dataset(folder), folder)


def write_split(options: DataOptions, out: Path) -> str:
    """Write which image is in which part as CSV; a line that sums it up."""
    settings = load_settings(options)
    data = prepare(settings)
    parts = split_indices(effective_split(settings.benchmark.split, data.dataset), data.dataset)
    try:
        origin = provenance(data.folder)
        images = ImageIdentities(origin.digests, origin.files)
        write_atomically(out, split_csv(parts, images).encode())
    except OSError as error:
        raise path_error(error, out) from error
    return (
        f"{out}: {len(parts.train):,} training, {len(parts.validation):,} validation, "
        f"{len(parts.test):,} test images of {len(data.dataset):,}"
    )


def draw_preview(
    options: DataOptions, out: Path, *, per_class: int, shift: bool, policies: Sequence[str]
) -> None:
    """Draw images of each class, or what augmentation policies or the shifted test do.

    Raises UserError.
    """
    if policies and shift:
        raise UserError(
            "--policy shows an augmentation, --shift the shifted test; give one of them"
        )
    dataset = prepare(load_settings(options)).dataset
    if policies:
        from harness.augmentation.preview import policies_preview, policy_preview
        from harness.config import augmentation_named

        augmentations = {name: augmentation_named(name) for name in policies}
        if len(policies) > 1:
            policies_preview(dataset, augmentations, out)
        else:
            policy_preview(dataset, augmentations[policies[0]], out, versions=min(per_class, 12))
    elif shift:
        from harness.data.preview import shifted_preview

        shifted_preview(dataset, out)
    else:
        from harness.data.preview import class_preview

        class_preview(dataset, out, per_class=per_class)


def class_table(options: DataOptions, out: Path) -> list[str]:
    """The images of each class from source to training, with class weights; and as PNG to ``out``.

    Weights are n / (K n_k), over all images and over those of training. Raises UserError.
    """
    from harness.reporting.class_chart import draw

    if out.suffix.lower() not in {"", ".png"}:
        raise UserError(f"{out}: the chart is a PNG; write {out.with_suffix('.png')}")
    settings = load_settings(options)
    data, loss = settings.benchmark.data, settings.benchmark.protocol.loss
    uncleaned = data.model_copy(update={"clean": False, "manifest": None})
    raw = settings.benchmark.model_copy(update={"data": uncleaned})
    source = prepare(replace(settings, benchmark=raw)).dataset
    dataset = prepare(settings).dataset
    parts = split_indices(effective_split(settings.benchmark.split, dataset), dataset)
    one_hot = np.eye(len(dataset.class_names))[dataset.labels]
    train = one_hot[parts.train]
    counts = {"images": np.bincount(source.labels, minlength=len(source.class_names))}
    if data.clean:
        counts["after cleaning"] = one_hot.sum(axis=0)
    counts["training"] = train.sum(axis=0)
    if loss.oversampling:
        counts["after balancing"] = train[sample_indices(loss, train, 0)].sum(axis=0)
    write_atomically(out, draw(dataset.name, dataset.class_names, counts))
    table: dict[str, list[str]] = {"class": [*dataset.class_names, "all"]}
    for name, values in counts.items():
        table[name] = [f"{value:,.0f}" for value in (*values, values.sum())]
    balanced = Loss(class_weight="balanced")
    for name, targets in (("weight", one_hot), ("weight in training", train)):
        table[name] = [*(f"{weight:.4f}" for weight in class_weights(balanced, targets)), ""]
    align = ("left", *["right"] * (len(table) - 1))
    return tabulate(table, "keys", disable_numparse=True, colalign=align).splitlines()


@dataclass(frozen=True)
class AuditRequest(DataOptions):
    """The command line of ``data audit``, as typed."""

    out: Path | None = None
    removed: Path | None = None
    """Where the removed images go as a data set."""
    also_remove: tuple[str, ...] = ()
    """Kinds of findings to remove besides those removed by default."""
    not_cells: tuple[int, ...] = ()
    """Indices of images that are known to be no cells."""
    network: str | None = None
    size: int | None = None
    layer: str = ""
    similarity: float | None = None


def run_audit(request: AuditRequest) -> list[object]:
    """Audit a source, write its page and manifest; the summary's lines, and the page.

    Raises UserError.
    """
    from harness.audit.findings import REMOVABLE, REMOVED
    from harness.audit.report import summary, write_removed, write_report

    for kind in request.also_remove:
        if kind not in REMOVABLE:
            raise UnknownName("kind of finding", kind, REMOVABLE)
    settings, console = load_settings(request), plain_console(stderr=True)
    benchmark = settings.benchmark
    options = AuditOptions(
        request.not_cells,
        _embedder(request, settings, console),
        SIMILAR if request.similarity is None else request.similarity,
    )
    source = pipeline.find_source(benchmark.data, benchmark.protocol.image_size)
    kinds = tuple(dict.fromkeys((*REMOVED, *request.also_remove)))
    with console.status("") as status:
        workspace = replace(settings.workspace, on_progress=updater(status))
        audited = pipeline.run_audit(source, workspace, options)
        status.update("drawing the figures")
        page = write_report(audited, request.out or Path("audit") / audited.dataset.name, kinds)
    lines: list[object] = [*summary(audited, kinds)]
    if request.removed is not None:
        count = write_removed(audited, request.removed, kinds)
        lines.append(f"{request.removed}: the {count:,} removed images")
    return [*lines, page]


def _embedder(request: AuditRequest, settings: Settings, console: Console) -> Embedder:
    """The network that compares images; by default one whose weights are always there."""
    default = Embedder()
    recipe = find(request.network or default.recipe)
    if recipe.branches or not recipe.pretrained:
        raise UserError(f"--network {recipe.name}: an audit needs one network with its weights")
    own = recipe.name == default.recipe
    size = request.size or (default.image_size if own else settings.benchmark.protocol.image_size)
    if problem := recipe.size_problem(size):
        raise UserError(f"--size {size} is {problem}")
    if own and not settings.benchmark.weights.files:
        return replace(default, image_size=size, layer=request.layer)
    certain = settings.benchmark.weights.model_copy(update={"when_offline": "fail"})
    weights = fetched(certain, recipe, None, console)
    if weights.weights.source == "random":
        reason = weights.note or "random weights"
        raise UserError(f"{recipe.name}: {reason}; an audit needs trained ones")
    return Embedder(recipe.name, size, request.layer, weights.files[0])
