"""What each recipe starts from: its pretrained weights, a file of the user, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from harness.config import WeightSettings
from harness.errors import Offline, UserError
from harness.schema.run import Weights
from harness.storage.download import Download
from harness.sweep.downloads import Downloads, find_sizes
from zoo import weights as zoo_weights
from zoo.recipe import KerasFile, Recipe
from zoo.registry import find

OFFLINE_NOTE = "random weights: the ImageNet weights could not be downloaded"


@dataclass(frozen=True)
class ResolvedWeights:
    """The weights that a recipe starts from: their identity, their files, and a note for tables."""

    weights: Weights
    files: tuple[Path | None, ...] = (None,)
    """One for each branch of the network; None where its weights are random."""
    note: str = ""
    missing: tuple[Download, ...] = ()
    """Those of the files that are to be downloaded."""
    offline: Weights | None = None
    """In place of ``weights`` where they cannot be downloaded; None: that is known not to be so, or
    an error."""


def resolve_weights(
    settings: WeightSettings,
    recipes: Sequence[Recipe],
    folder: Path | None = None,
    console: Console | None = None,
) -> dict[str, ResolvedWeights]:
    """Recipe name -> its weights, of which files with a published checksum may be missing yet.

    ``folder``: see ``zoo.weights.weights_folder``. Without a ``console``, which shows what is
    downloaded, nothing is, and weights that are not on this machine are planned as if they were.
    Raises WeightsError, ChecksumError, or Offline, unless the settings let an offline recipe start
    at random.
    """
    files = {find(name).name: Path(path) for name, path in settings.files.items()}
    resolved: dict[str, ResolvedWeights] = {}
    published = []
    for recipe in backbones(recipes):
        if recipe.name in files:
            file = zoo_weights.user_file(recipe, files[recipe.name])
            weights = Weights(source="file", digest=f"sha256:{zoo_weights.sha256(file)}")
            resolved[recipe.name] = ResolvedWeights(weights, (file,))
        elif settings.source == "random" or not recipe.pretrained:
            resolved[recipe.name] = ResolvedWeights(Weights(source="random"))
        else:
            published.append(recipe)
    resolved |= _imagenet(settings, published, folder, console)
    joint = [recipe for recipe in recipes if recipe.branches]
    return resolved | {
        recipe.name: _join([resolved[branch.name] for branch in recipe.branches])
        for recipe in joint
    }


def fetched(
    settings: WeightSettings, recipe: Recipe, folder: Path | None, console: Console
) -> ResolvedWeights:
    """A recipe's weights as of ``resolve_weights``, with every file here. Raises UserError too."""
    resolved = resolve_weights(settings, (recipe,), folder, console)[recipe.name]
    with Downloads(resolved.missing, console) as downloads:
        for error in downloads.wait().values():
            raise error
    return replace(resolved, missing=())


def backbones(recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """The backbones of these recipes, each once."""
    return tuple(dict.fromkeys(branch for r in recipes for branch in r.branches or (r,)))


def locate(recipe: Recipe, folder: Path | None = None) -> Path | Download:
    """The ImageNet weights on this machine, or else, also if damaged, what is to be downloaded.

    Its size is what the parameters take in float32. Raises WeightsError for a package's weights.
    """
    local, source = zoo_weights.local_imagenet_file(recipe, folder), recipe.imagenet
    if local is not None:
        return local
    assert isinstance(source, KerasFile), "a package's weights are there"
    path = zoo_weights.weights_folder(folder) / source.filename
    url, size = zoo_weights.KERAS_STORE + source.path, 4 * recipe.parameters
    signature = zoo_weights.HDF5_SIGNATURE
    return Download(recipe.name, url, path, source.digest, signature, size)


def _imagenet(
    settings: WeightSettings,
    recipes: Sequence[Recipe],
    folder: Path | None,
    console: Console | None,
) -> dict[str, ResolvedWeights]:
    located = {recipe.name: locate(recipe, folder) for recipe in recipes}
    errors: dict[str, UserError] = {}
    if console is not None:
        found, errors = find_sizes(
            [f for f in located.values() if isinstance(f, Download)], console
        )
        located |= found
        # The ids of runs hold the checksum: where none is published, it is the file's own.
        unknown = [file for file in found.values() if file.digest is None]
        with Downloads(unknown, console) as downloads:
            errors |= downloads.wait()
        located |= {file.name: file.path for file in unknown}
    for error in errors.values():
        if settings.when_offline == "fail" or not isinstance(error, Offline):
            raise error
    note, offline = "", None
    if console is None:
        note = "ImageNet weights to be downloaded"
        offline = Weights(source="random") if settings.when_offline == "random" else None
    return {
        recipe.name: ResolvedWeights(Weights(source="random"), note=OFFLINE_NOTE)
        if recipe.name in errors
        else _published(recipe, located[recipe.name], note, offline)
        for recipe in recipes
    }


def _published(
    recipe: Recipe, file: Path | Download, note: str, offline: Weights | None
) -> ResolvedWeights:
    """``note``, ``offline``: of a file that is missing."""
    if isinstance(file, Path):
        weights = Weights(source="imagenet", digest=zoo_weights.digest(recipe, file))
        return ResolvedWeights(weights, (file,))
    weights = Weights(source="imagenet", digest=zoo_weights.digest(recipe, None))
    return ResolvedWeights(weights, (file.path,), note, (file,), offline)


def _join(branches: Sequence[ResolvedWeights]) -> ResolvedWeights:
    """The weights of a network of several branches: pretrained if any of them is."""
    weights = _join_weights([branch.weights for branch in branches])
    offline = None
    if any(branch.offline for branch in branches):
        offline = _join_weights([branch.offline or branch.weights for branch in branches])
    notes = dict.fromkeys(branch.note for branch in branches if branch.note)
    suffix = " (some branches)" if weights.source != "random" and notes else ""
    files = tuple(file for branch in branches for file in branch.files)
    missing = tuple(file for branch in branches for file in branch.missing)
    return ResolvedWeights(weights, files, "; ".join(notes) + suffix, missing, offline)


def _join_weights(branches: Sequence[Weights]) -> Weights:
    pretrained = next((one.source for one in branches if one.source != "random"), None)
    if pretrained is None:
        return branches[0]
    digests = "+".join(one.digest or "random" for one in branches)
    return Weights(source=pretrained, digest=digests)
