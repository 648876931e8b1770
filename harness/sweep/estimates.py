"""What a run will cost, before it is executed: time, disk and memory."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from statistics import median

from harness.augmentation.stream import enlargement
from harness.execution.devices import Device, cores
from harness.schema.dataset import DataSummary
from harness.schema.records import Finished, RunRecord
from harness.schema.run import Shift
from harness.sweep.planner import PlannedRun
from zoo.recipe import Recipe
from zoo.registry import find

START_SECONDS = 12.0
"""To load a framework and build an average network."""
HEAD_SECONDS = 6.0
"""To train the head on features."""
GPU_SPEED, CORE_SPEED = 2.0e12, 2.0e10
"""Multiply-adds per second of a GPU and of one processor core in convolutions, assumed until any
recipe was measured on the device."""
BACKWARD = 3
"""Cost of a training step in forward passes."""
SHIFTED_COPIES: dict[Shift, int] = {"none": 0, "mixed": 1, "full": 56}
"""Passes over the test images: the mixed copy, and 55 pairs of corruption and severity."""


def default_speed(device: Device) -> float:
    """Multiply-adds per second of a device on which nothing has been measured yet."""
    return GPU_SPEED if device.id != "cpu" else cores() * CORE_SPEED


def multiply_adds(recipe: Recipe, image_size: int) -> float:
    """Multiply-adds of one image at this size, scaled from the published figure by area."""
    return recipe.multiply_adds * (image_size / 224) ** 2


def estimate_seconds(
    planned: PlannedRun,
    data: DataSummary,
    records: Sequence[RunRecord],
    device: str,
    speed: float,
    shift: Shift = "none",
) -> float:
    """Seconds that a run takes on its own, if no phase stops early.

    By the images per second of its recipe on this device, else by the multiply-adds per second of
    other recipes there, else by ``speed``, in multiply-adds per second.
    """
    rate = _recipe_rate(planned, records, device)
    if rate is None:
        speed = _device_speed(planned, records, device) or speed
        rate = speed / multiply_adds(planned.recipe, planned.run.protocol.image_size)
    protocol, images = planned.run.protocol, data.train + data.validation + data.test
    rows = data.train * enlargement(protocol.augmentation)
    epoch = (BACKWARD * rows + data.validation) / rate
    features = images / rate
    if protocol.augmentation.policy:  # Besides the plain training images.
        epochs = min(protocol.augmentation.frozen_epochs, protocol.frozen.epochs)
        features += epochs * rows / rate
    if scratch := planned.run.from_scratch:
        training = scratch.epochs * epoch + features
    elif protocol.fine_tuning:
        training = 2 * features + protocol.fine_tuning.epochs * epoch + HEAD_SECONDS
    else:
        training = features + HEAD_SECONDS
    views, copies = protocol.test_views, SHIFTED_COPIES[shift]
    evaluated = (views - 1) * (data.validation + data.test) + views * copies * data.test
    return START_SECONDS + training + evaluated / rate


def estimate_all(
    pending: Sequence[PlannedRun],
    data: DataSummary,
    records: Sequence[RunRecord],
    device: Device,
    shift: Shift,
) -> dict[str, float]:
    """Run id -> estimated seconds."""
    speed = default_speed(device)
    return {
        planned.run.id: estimate_seconds(planned, data, records, device.name, speed, shift)
        for planned in pending
    }


def end_times(seconds: Sequence[float], machines: int) -> tuple[float, ...]:
    """When each run ends, in the given order, if each starts on the first machine that is free."""
    free, ends = [0.0] * machines, []
    for duration in seconds:
        ends.append(free[0] + duration)
        heapq.heapreplace(free, ends[-1])
    return tuple(ends)


def within_budget(
    budget: float, pending: Sequence[PlannedRun], seconds: Mapping[str, float], machines: int
) -> tuple[PlannedRun, ...]:
    """As many of the pending runs as can end within ``budget`` seconds, in their order.

    The shortest are chosen, because most of them fit; they are executed longest first.
    """
    chosen: set[str] = set()
    for run_id in sorted((planned.run.id for planned in pending), key=seconds.__getitem__):
        candidate = {*chosen, run_id}
        durations = [seconds[p.run.id] for p in pending if p.run.id in candidate]
        if max(end_times(durations, machines)) > budget:
            break
        chosen = candidate
    return tuple(planned for planned in pending if planned.run.id in chosen)


def disk_mb(planned: PlannedRun, data: DataSummary) -> float:
    """What a run leaves on disk, MiB: features of every image and, if trained, its weights.

    While it runs, a checkpoint of weights and optimizer may come on top, two while it is written.
    """
    images = data.train + data.validation + data.test
    weights = planned.recipe.parameters if planned.run.phase_on_images else 0
    features = images * planned.recipe.features_at(planned.run.protocol.image_size)
    return 4 * (features + weights) / 1024**2


def memory_mb(planned: PlannedRun, records: Sequence[RunRecord], device: str) -> float | None:
    """The peak memory of this recipe under the same protocol on this device, MiB, if known."""
    run = planned.run
    for record in records:
        same_run = (record.run.recipe, record.run.protocol) == (run.recipe, run.protocol)
        if same_run and _is_measured(record, device, run.protocol.precision):
            assert isinstance(record.result, Finished)
            return record.result.cost.peak_memory_mb
    return None


def _device_speed(planned: PlannedRun, records: Sequence[RunRecord], device: str) -> float | None:
    """Multiply-adds per second of this device: the median over what was measured on it."""
    precision = planned.run.protocol.precision
    speeds = [
        _single_view_rate(record)
        * multiply_adds(find(record.run.recipe), record.run.protocol.image_size)
        for record in records
        if _is_measured(record, device, precision)
    ]
    return median(speeds) if speeds else None


def _recipe_rate(planned: PlannedRun, records: Sequence[RunRecord], device: str) -> float | None:
    """Images per second of this recipe on this device, at the size of the planned run."""
    protocol = planned.run.protocol
    for record in records:
        if record.run.recipe == planned.recipe.name and _is_measured(
            record, device, protocol.precision
        ):
            scale = (record.data.image_size / protocol.image_size) ** 2
            return _single_view_rate(record) * scale
    return None


def _is_measured(record: RunRecord, device: str, precision: str) -> bool:
    if not isinstance(record.result, Finished):
        return False
    throughput = record.result.cost.throughput
    return (throughput.device, throughput.precision) == (device, precision)


def _single_view_rate(record: RunRecord) -> float:
    """Images per second in one view: with several test views an image counts once for all."""
    assert isinstance(record.result, Finished)
    return record.result.cost.throughput.median * record.run.protocol.test_views
