"""A Benchmark minus what is done: the runs that are wanted, and those still pending."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median

from harness.augmentation.stream import enlargement, epoch_bytes
from harness.config import Benchmark, WeightSettings
from harness.errors import ConfigError, Offline, StoreError
from harness.execution.devices import Device, cores
from harness.schema.augmentation import EpochCacheSettings
from harness.schema.dataset import Dataset, DataSummary, Parts
from harness.schema.protocol import Loss
from harness.schema.records import Failed, Finished, RunRecord
from harness.schema.run import Run, Shift, Weights
from harness.storage.records import Store
from zoo import weights as shelf
from zoo.recipe import Recipe
from zoo.registry import RECIPES, find

START_SECONDS = 12.0
"""To load a framework and build an average network; what a first estimate adds to each run."""
GPU_MULTIPLY_ADDS, CORE_MULTIPLY_ADDS = 2.0e12, 2.0e10
"""Multiply-adds a second of a GPU and of one processor core in convolutions: a first guess, until
a record of any recipe on the same device says better."""
HEAD_SECONDS = 6.0
SHIFTED_COPIES: dict[Shift, int] = {"none": 0, "mixed": 1, "full": 56}
"""Passes over the test images: the mixed copy, and all 55 ways besides."""


@dataclass(frozen=True)
class ResolvedWeights:
    """What a recipe starts from: the identity, the file, and what the reader must know of it."""

    weights: Weights
    files: tuple[Path | None, ...] = (None,)
    """One; of a joint network one a branch. None where the weights are random."""
    note: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """A run that is wanted, with what it needs on this machine."""

    run: Run
    recipe: Recipe
    weights_files: tuple[Path | None, ...]
    note: str
    variant: str = ""
    """Of the protocol; none for the plain one."""
    seen: tuple[int, int] | None = None
    """The trace of the record that it has and is to lose: a failed one, or a damaged one."""


def recipes(benchmark: Benchmark, names: Sequence[str]) -> tuple[Recipe, ...]:
    """The recipes asked for, else those of ``sweep.recipes``, else the zoo; each once."""
    chosen = [find(name) for name in (names or benchmark.sweep.recipes)]
    return tuple(dict.fromkeys(chosen)) or RECIPES


def resolve_weights(
    settings: WeightSettings,
    wanted: Sequence[Recipe],
    *,
    fetch: bool = True,
    tell: Callable[[str], object] = lambda _: None,
) -> dict[str, ResolvedWeights]:
    """Recipe name -> its weights, downloaded here, once, before any worker starts.

    With ``fetch`` false nothing is downloaded: what is not at hand is planned as if it were.
    Raises WeightsError or Offline, unless the settings let an offline recipe start at random.
    """
    files = {find(name).name: Path(path) for name, path in settings.files.items()}
    found, offline = {}, ""
    for recipe in dict.fromkeys(branch for one in wanted for branch in one.branches or (one,)):
        if recipe.name in files:
            file = shelf.user_file(recipe, files[recipe.name])
            weights = Weights(source="file", digest=f"sha256:{shelf.sha256(file)}")
            found[recipe.name] = ResolvedWeights(weights, (file,))
        elif settings.source == "random":
            found[recipe.name] = ResolvedWeights(Weights(source="random"))
        else:
            tell(f"looking for the ImageNet weights of {recipe.name}")
            found[recipe.name], offline = _imagenet(recipe, settings, fetch, offline)
    return found | {
        one.name: _together([found[branch.name] for branch in one.branches])
        for one in wanted
        if one.branches
    }


def _together(branches: Sequence[ResolvedWeights]) -> ResolvedWeights:
    """What a joint network starts from: pretrained if any of its branches is."""
    sources = dict.fromkeys(supply.weights.source for supply in branches)
    digests = [supply.weights.digest or "random" for supply in branches]
    known = next((source for source in sources if source != "random"), None)
    weights = Weights(source=known, digest="+".join(digests)) if known else branches[0].weights
    notes = dict.fromkeys(supply.note for supply in branches if supply.note)
    files = tuple(file for supply in branches for file in supply.files)
    some = " (some branches)" if known and notes else ""
    return ResolvedWeights(weights, files, "; ".join(notes) + some)


def _imagenet(
    recipe: Recipe, settings: WeightSettings, fetch: bool, offline: str
) -> tuple[ResolvedWeights, str]:
    """The ImageNet weights of one recipe, and why the network is known to be down, if it is."""
    try:
        file = shelf.local_imagenet_file(recipe)
        if file is None and not fetch:
            weights = Weights(source="imagenet", digest=shelf.digest(recipe, None))
            return ResolvedWeights(weights, note="ImageNet weights to be downloaded"), offline
        if file is None:
            if offline:
                raise Offline(offline)
            file = shelf.imagenet_file(recipe)
    except Offline as error:
        if settings.when_offline == "fail":
            raise Offline(f"{recipe.name}: {error}") from None
        note = "random weights: the ImageNet weights could not be downloaded"
        return ResolvedWeights(Weights(source="random"), note=note), str(error)
    weights = Weights(source="imagenet", digest=shelf.digest(recipe, file))
    return ResolvedWeights(weights, (file,)), offline


def runs(
    benchmark: Benchmark,
    wanted: Sequence[Recipe],
    data: Dataset,
    supply: Mapping[str, ResolvedWeights],
) -> tuple[PlannedRun, ...]:
    """Every run that the benchmark wants: variants x seeds x recipes. Raises ConfigError."""
    _check(benchmark, wanted, data)
    planned: dict[str, PlannedRun] = {}
    protocols, seeds = benchmark.protocols.items(), range(benchmark.sweep.seeds)
    for (variant, protocol), seed, recipe in product(protocols, seeds, wanted):
        have = supply[recipe.name]
        run = Run(
            recipe=recipe.name,
            weights=have.weights,
            protocol=protocol,
            data=data.fingerprint,
            split=benchmark.split,
            seed=seed,
        )
        planned.setdefault(run.id, PlannedRun(run, recipe, have.files, have.note, variant))
    return tuple(planned.values())


def _check(benchmark: Benchmark, wanted: Sequence[Recipe], data: Dataset) -> None:
    size = benchmark.protocol.image_size
    for recipe in wanted:
        if size < recipe.minimum_size:
            raise ConfigError(
                f"protocol.image_size = {size} is too small for {recipe.name}: "
                f"its smallest input is {recipe.minimum_size} pixels"
            )
    for variant, protocol in benchmark.protocols.items():
        weights, table = (
            protocol.loss.class_weight,
            f"variants.{variant}" if variant else "protocol",
        )
        if isinstance(weights, tuple) and len(weights) != len(data.class_names):
            raise ConfigError(
                f"{table}.loss.class_weight has {len(weights)} numbers, "
                f"but {data.name} has {len(data.class_names)} classes"
            )


def pending(
    planned: Sequence[PlannedRun],
    store: Store,
    *,
    retry_failed: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> tuple[PlannedRun, ...]:
    """Those without a record, longest first; failed ones too if they are to be tried again.

    A finished run whose predictions are damaged is pending again; ``tell`` gets a line of it.
    """
    left = []
    for one in planned:
        trace, record = store.record_version(one.run), store.find(one.run)
        if record is None:
            left.append(one)
        elif isinstance(record.result, Failed):
            if retry_failed:
                left.append(replace(one, seen=trace))
        elif not _sound(store, record):
            tell(f"{store.predictions_path(one.run)}: damaged; {one.recipe.name} is run again")
            left.append(replace(one, seen=trace))
    return tuple(sorted(left, key=lambda one: -work(one.recipe, one.run.protocol.image_size)))


def _sound(store: Store, record: RunRecord) -> bool:
    """Whether the predictions that the record was written about are there, or were mended."""
    try:
        store.load_verified(record)
    except StoreError:
        return False
    return True


def work(recipe: Recipe, image_size: int) -> float:
    """Multiply-adds of one image at this size, scaled from the published figure by area."""
    return recipe.multiply_adds * (image_size / 224) ** 2


def epoch_store(benchmark: Benchmark, data: DataSummary, folder: Path) -> EpochCacheSettings | None:
    """Where augmented epochs go; None without augmentation. ConfigError if not one would fit."""
    augmented = [p for p in benchmark.protocols.values() if p.augmentation.policy]
    if not augmented:
        return None
    limit = int(1e9 * benchmark.sweep.augmented_gigabytes)
    classes = len(data.class_names)
    need = max(
        epoch_bytes(one.augmentation, _rows(one.loss, data), data.image_size, classes)
        for one in augmented
    )
    if limit < need:
        raise ConfigError(
            f"sweep.augmented_gigabytes = {benchmark.sweep.augmented_gigabytes:g} is less than one "
            f"augmented epoch of {data.train:,} training images at {data.image_size} px: "
            f"{need / 1e9:.3g} GB"
        )
    return EpochCacheSettings(folder=str(folder.resolve()), limit_bytes=limit)


def _rows(loss: Loss, data: DataSummary) -> int:
    """Images of an epoch, at least: what is repeated of rare classes hangs on their sizes."""
    goal = 0 if isinstance(loss.oversampling, bool) else loss.oversampling
    return max(data.train, goal * len(data.class_names))


def summarise(data: Dataset, parts: Parts) -> DataSummary:
    return DataSummary(
        name=data.name,
        images=len(data),
        image_size=data.images.shape[1],
        class_names=data.class_names,
        train=len(parts.train),
        validation=len(parts.validation),
        test=len(parts.test),
    )


def first_guess(device: Device) -> float:
    """Multiply-adds a second of a device on which nothing has been measured yet."""
    return GPU_MULTIPLY_ADDS if device.id != "cpu" else cores() * CORE_MULTIPLY_ADDS


def estimate(
    one: PlannedRun,
    data: DataSummary,
    records: Sequence[RunRecord],
    device: str,
    guess: float,
    shift: Shift = "none",
) -> float:
    """Seconds that a run will take on its own.

    From the rate that its recipe had on this device, else from what the device made of other
    recipes, else from ``guess``, in multiply-adds a second.

    Counts the passes over images that the protocol asks for at most, and those over the shifted
    test images; early stopping makes it less.
    """
    rate = _known_rate(one, records, device)
    if rate is None:
        speed = _known_speed(one, records, device) or guess
        rate = speed / work(one.recipe, one.run.protocol.image_size)
    protocol, images = one.run.protocol, data.train + data.validation + data.test
    rows = data.train * enlargement(protocol.augmentation)
    forward, backward = images / rate, 3 * rows / rate
    if protocol.augmentation.policy:  # Beside the plain training images, not in their place.
        forward += min(protocol.augmentation.frozen_epochs, protocol.frozen.epochs) * rows / rate
    if one.run.weights.source == "random" and protocol.from_scratch:
        training = protocol.from_scratch.epochs * (backward + data.validation / rate) + forward
    elif protocol.fine_tuning:
        per_epoch = backward + data.validation / rate
        training = 2 * forward + protocol.fine_tuning.epochs * per_epoch + HEAD_SECONDS
    else:
        training = forward + HEAD_SECONDS
    views, copies = protocol.test_views, SHIFTED_COPIES[shift]
    judging = (views - 1) * (data.validation + data.test) + views * copies * data.test
    return START_SECONDS + training + judging / rate


def estimates(
    pending: Sequence[PlannedRun],
    data: DataSummary,
    records: Sequence[RunRecord],
    device: Device,
    shift: Shift,
) -> dict[str, float]:
    """Run id -> the seconds it will take, as far as can be said."""
    guess = first_guess(device)
    return {one.run.id: estimate(one, data, records, device.name, guess, shift) for one in pending}


def end_times(seconds: Sequence[float], machines: int) -> tuple[float, ...]:
    """When each run ends, in the order given, if each begins on the first machine that is free."""
    free = [0.0] * machines
    found = []
    for each in seconds:
        at = heapq.heappop(free)
        found.append(at + each)
        heapq.heappush(free, at + each)
    return tuple(found)


def within_budget(
    budget: float, pending: Sequence[PlannedRun], seconds: Mapping[str, float], machines: int
) -> tuple[PlannedRun, ...]:
    """As many of the pending runs as can end within so many seconds, in their order.

    Short ones are taken first, because that makes the most of them; they run longest first.
    """
    chosen: set[str] = set()
    for one in sorted(pending, key=lambda one: seconds[one.run.id]):
        candidate = {*chosen, one.run.id}
        taken = [seconds[each.run.id] for each in pending if each.run.id in candidate]
        if max(end_times(taken, machines)) > budget:
            break
        chosen = candidate
    return tuple(one for one in pending if one.run.id in chosen)


def disk_mb(one: PlannedRun, data: DataSummary) -> float:
    """What a run leaves on disk, MiB: features of every image and, where they learn, weights.

    While it runs, two checkpoints of weights and optimizer come to it.
    """
    images = data.train + data.validation + data.test
    features = 4 * images * one.recipe.feature_width
    protocol, random = one.run.protocol, one.run.weights.source == "random"
    learns = protocol.from_scratch if random else protocol.fine_tuning
    return (features + (4 * one.recipe.parameters if learns else 0)) / 1024**2


def memory_mb(one: PlannedRun, records: Sequence[RunRecord], device: str) -> float | None:
    """The most memory that this recipe took under the same protocol on this device, MiB."""
    for record in records:
        if (record.run.recipe, record.run.protocol) != (one.recipe.name, one.run.protocol):
            continue
        if isinstance(record.result, Finished) and record.result.cost.throughput.device == device:
            return record.result.cost.peak_memory_mb
    return None


def _known_speed(one: PlannedRun, records: Sequence[RunRecord], device: str) -> float | None:
    """Multiply-adds a second of this device, the median over whatever was measured on it."""
    speeds = []
    for record in records:
        if isinstance(record.result, Finished):
            throughput, protocol = record.result.cost.throughput, record.run.protocol
            if (throughput.device, throughput.precision) == (device, one.run.protocol.precision):
                images = throughput.median * protocol.test_views
                speeds.append(images * work(find(record.run.recipe), protocol.image_size))
    return median(speeds) if speeds else None


def _known_rate(one: PlannedRun, records: Sequence[RunRecord], device: str) -> float | None:
    for record in records:
        if record.run.recipe != one.recipe.name or record.result.status != "finished":
            continue
        throughput = record.result.cost.throughput
        if throughput.device == device and throughput.precision == one.run.protocol.precision:
            scale = (record.data.image_size / one.run.protocol.image_size) ** 2
            return throughput.median * record.run.protocol.test_views * scale
    return None
