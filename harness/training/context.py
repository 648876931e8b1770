"""A run under way: its data, its network, and the passes of one over the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from harness.augmentation.epoch_cache import EpochCache, EpochReader
from harness.augmentation.training_images import augmented_validation
from harness.data.sampling import sample_indices
from harness.data.shifted_test import Shifted
from harness.execution.locks import DeviceLock
from harness.schema.dataset import Dataset, Parts
from harness.schema.predictions import Predictions
from harness.schema.protocol import Phase
from harness.schema.records import Cost, Epoch
from harness.schema.run import Run
from harness.training import throughput
from harness.training.checkpoint import CheckpointManager
from harness.training.device_images import DeviceImages, memory_budget
from harness.training.head import Standardizer
from harness.training.model import (
    build_head,
)
from harness.training.predictor import ImageRows, Predictor, images_to_pass
from harness.training.train_step import CompileTimer, Forward, to_numpy

PART_NAMES = ("train", "validation", "test")


AHEAD = 16
"""Batches on their way through a network on a GPU before the first one's features are fetched."""


@dataclass(frozen=True)
class Events:
    """Where a training reports to, and the turns that it takes at its device."""

    phase: Callable[[str, int], None]
    """A phase begins: its name and its steps."""
    step: Callable[[int, int], None]
    """Images done of images to do, of a pass over the data."""
    epoch: Callable[[Epoch], None]
    device_lock: DeviceLock
    device: str
    keeper: CheckpointManager | None = None
    """Where a phase on images keeps its checkpoints."""
    parts: int = 1
    """Micro-batches to a batch. More than one where memory was too small for it whole: gradients
    are averaged over them before each step, so the batch size of the protocol stays what it is.
    Dropout draws other masks, and a BatchNorm that learns sees the statistics of a micro-batch."""


@dataclass(frozen=True)
class TrainOptions:
    """What a training may have at hand besides its data; by default nothing."""

    shifted: Shifted | None = None
    epoch_cache: EpochCache | None = None
    """Where augmented epochs are kept; without it they are made in memory."""
    prefetch: Callable[[int, int], None] = lambda first, end: None
    """Receives the augmented epochs that come next: the first, and the end."""


NOTHING = TrainOptions()


@dataclass
class RunContext:
    """A run with its data and its backbone on the table, and the learning curve so far."""

    run: Run
    data: Dataset
    parts: Parts
    network: keras.Model
    events: Events
    reader: EpochReader | None
    history: list[Epoch] = field(default_factory=list)
    trainable: int = 0
    embedded: int = 0
    seconds_before: float = 0.0
    """Of the epochs that a process before this one has trained."""
    compiling: CompileTimer = field(default_factory=CompileTimer)
    _meter: tuple[throughput.Meter, bool] | None = None

    def __post_init__(self) -> None:
        self._forward = Forward(self.network, self.compiling)
        self.parts_used = self.events.parts

    def laid(self, images: np.ndarray) -> DeviceImages:
        """Images where the steps find them; with the host once memory has been too small."""
        return DeviceImages(images, 0 if self.events.parts > 1 else memory_budget())

    @cached_property
    def resident(self) -> DeviceImages:
        return self.laid(self.data.images)

    def ids(self, part: str) -> np.ndarray:
        return np.asarray(getattr(self.parts, part))

    def targets(self, part: str) -> np.ndarray:
        """One-hot labels float32 (n, K)."""
        classes = len(self.data.class_names)
        return np.eye(classes, dtype=np.float32)[self.data.labels[self.ids(part)]]

    @cached_property
    def sample_indices(self) -> np.ndarray:
        """The training images of an epoch, by position: each once, or the rare ones again."""
        return sample_indices(self.run.protocol.loss, self.targets("train"), self.run.seed)

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Targets of the training images as they are, and of validation."""
        return self.targets("train")[self.sample_indices], self.targets("validation")

    def varied_labels(self, epochs: int) -> tuple[np.ndarray, np.ndarray]:
        """The same for the augmented stream, where there is one, in a phase of so many epochs."""
        plain, validation = self.labels
        return (self.reader.read(0, epochs).targets if self.reader else plain), validation

    def rows(self, part: str) -> ImageRows:
        """Images, and which of them are the part's. Only validation may be augmented, if told."""
        if part != "validation" or not self.run.protocol.augmentation.validation_share:
            return self.data.images, self.ids(part)
        return self._augmented_validation, np.arange(len(self.ids(part)))

    def images(self, part: str) -> tuple[DeviceImages, np.ndarray]:
        """The same, where the steps find them."""
        images, ids = self.rows(part)
        return (self.resident if images is self.data.images else self._laid_validation), ids

    @cached_property
    def _augmented_validation(self) -> np.ndarray:
        return augmented_validation(self.run, self.data, self.ids("validation"))

    @cached_property
    def _laid_validation(self) -> DeviceImages:
        return self.laid(self._augmented_validation)

    # Training

    def varied_features(
        self, reader: EpochReader, phase: Phase
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features and soft targets of each augmented epoch that the frozen phase goes round."""
        augmentation = self.run.protocol.augmentation
        count = augmentation.stream_epoch(min(augmentation.frozen_epochs, phase.epochs) - 1) + 1
        total = count * reader.stream.rows
        self.events.phase("features", total)
        for epoch in range(count):
            made = reader.read(epoch, count)
            done = epoch * reader.stream.rows
            ids = np.arange(len(made.images))
            self.embedded += len(ids)
            yield self.pass_over(self.laid(made.images), ids, (done, total)), made.targets

    def head(self, standard: Standardizer | None) -> keras.Model:
        width, classes = self.network.output.shape[-1], len(self.data.class_names)
        return build_head(self.run.protocol.head, width, classes, standard)

    # Evaluation

    def features(self, parts: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Pooled features float32 (n, width) of each part; the test pass is also measured."""
        total = sum(len(self.ids(part)) for part in parts)
        self.events.phase("features", total)
        done, features = 0, {}
        for part in parts:
            features[part] = self.sweep_over(part, part == "test", done, total)
            done += len(self.ids(part))
        return features

    def sweep_over(
        self, part: str, measured: bool = False, done: int = 0, total: int = 0
    ) -> np.ndarray:
        """One pass of the backbone over a part."""
        return self.pass_over(*self.images(part), (done, total), measured)

    def pass_over(
        self,
        images: DeviceImages,
        ids: np.ndarray,
        progress: tuple[int, int] = (0, 0),
        measured: bool = False,
    ) -> np.ndarray:
        """Pooled features of images[ids]. Short batches are filled up: nothing recompiles.

        ``progress``: images done before, and to do in all; 0 to do: nobody is told.
        """
        size, (done, total) = self.inference_batch, progress
        out = np.empty((len(ids), self.network.output.shape[-1]), dtype=np.float32)
        begin = self._measured(ids, out) if measured else 0
        starts = range(begin, len(ids), size)
        batches = (images.take(np.resize(ids[at : at + size], size)) for at in starts)
        for at, found in zip(starts, self.forward(batches), strict=True):
            out[at : at + size] = found[: len(ids) - at]
            if total:
                self.events.step(done + min(at + size, len(ids)), total)
        return out

    def forward(self, batches: Iterable[Any]) -> Iterator[np.ndarray]:
        """The features of one batch after the other, each in a turn of its own.

        On a device of the run's own, batches go in ahead of the features that are fetched.
        """
        ahead, source = AHEAD if self.events.device_lock.own else 0, iter(batches)
        waiting: deque[Any] = deque()
        more = True
        while more or waiting:
            with self.events.device_lock.shared():
                batch = next(source, None)
                if more := batch is not None:
                    waiting.append(self._forward(batch))
                found = None
                if waiting and (not more or len(waiting) > ahead):
                    found = to_numpy(waiting.popleft())
            if found is not None:
                yield found

    @property
    def inference_batch(self) -> int:
        return math.ceil(self.run.protocol.inference_batch / self.events.parts)

    def _measured(self, ids: np.ndarray, out: np.ndarray) -> int:
        """Begin a pass with nothing else on the device, and time it until that is enough."""
        meter, at = throughput.Meter(self.run.protocol.test_views), 0
        size = self.inference_batch

        def measured(at: int) -> np.ndarray:
            batch = np.asarray(self.data.images[np.resize(ids[at : at + size], size)])
            return meter.measure(self._forward, batch)

        with self.events.device_lock.exclusive() as exclusive:
            while at < len(ids) and not meter.enough():
                out[at : at + size] = measured(at)[: len(ids) - at]
                at += size
            while meter.short:  # A tiny test part: go round again, for the timing alone.
                measured(0)
        self._meter = (meter, exclusive)
        return at

    def predictions(
        self, head: keras.Model, features: dict[str, np.ndarray], shifted: Shifted | None
    ) -> dict[str, Predictions]:
        """Of the three parts, of the shifted copy, and of both tests in the first view alone."""
        views = self.run.protocol.test_views
        ids = {part: self.ids(part) for part in PART_NAMES}
        evaluation = len(ids["validation"]), len(ids["test"])
        total = images_to_pass(views, evaluation, shifted)
        if total:
            self.events.phase("judging", total)
        judge = Predictor(
            self.data,
            self.forward,
            lambda found: to_numpy(head(found, training=False)).astype(np.float32),
            self.inference_batch,
            views,
            lambda done: self.events.step(done, total),
        )
        told = {"train": judge.train(ids["train"], features["train"])}
        for part in ("validation", "test"):
            told |= judge.part(part, self.rows(part), ids[part], features[part])
        return told if shifted is None else told | judge.shifted(shifted)

    def cost(self, head: keras.Model) -> Cost:
        assert self._meter is not None, "the features come before the cost"
        meter, exclusive = self._meter
        protocol = self.run.protocol
        return Cost(
            parameters=self.network.count_params() + head.count_params(),
            trainable_parameters=self.trainable,
            multiply_adds=throughput.multiply_adds(self.network) + throughput.multiply_adds(head),
            throughput=meter.result(
                self.inference_batch, protocol.precision, self.events.device, exclusive
            ),
            peak_memory_mb=throughput.peak_memory_mb(),
            peak_device_memory_mb=throughput.device_memory_mb(),
        )
