"""What belongs to one run in training: its data, network, device lock, callbacks and options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from harness.augmentation.epoch_cache import EpochCache, EpochReader
from harness.augmentation.stream import Stream
from harness.augmentation.training_images import augmented_validation, training_stream
from harness.data.shifted_test import Shifted
from harness.data.splitting import split_indices
from harness.execution.locks import DeviceLock
from harness.schema.dataset import Dataset
from harness.schema.events import COMPILING, WAITING
from harness.schema.records import Epoch
from harness.schema.run import Run
from harness.training.checkpoint import CheckpointManager
from harness.training.compilation import CompileTimer, array_spec, compiles_ahead
from harness.training.device_images import DeviceImages, memory_budget
from harness.training.device_memory import device_memory
from harness.training.feature_extractor import FeatureExtractor
from harness.training.model import set_xla, xla_pays
from harness.training.throughput import further_sizes
from harness.training.train_step import classify


def _ignore(*_: Any) -> None:
    """The default of every callback."""


@dataclass(frozen=True)
class Callbacks:
    """Receive the progress of a training."""

    on_phase_begin: Callable[[str, int], object] = _ignore
    """The name of the phase, and its epochs or images."""
    on_batch_end: Callable[[int, int], object] = _ignore
    """Images done, and all images, of an epoch or a pass."""
    on_epoch_end: Callable[[Epoch], object] = _ignore

    def counter(self, total: int) -> Callable[[int], None]:
        """A function that receives the size of each batch and reports it, of ``total`` images."""
        done = 0

        def on_batch_end(count: int) -> None:
            nonlocal done
            done += count
            self.on_batch_end(done, total)

        return on_batch_end


@dataclass(frozen=True)
class TrainOptions:
    """What a training may use besides its data; by default nothing."""

    device_name: str = "CPU"
    """The device as tables call it."""
    shifted: Shifted | None = None
    """The corrupted copy of the test images, if it is to be predicted."""
    checkpoints: CheckpointManager | None = None
    """Where phases on images save checkpoints, and resume from."""
    micro_batches: int = 1
    """Into which each batch is split where memory is too small for the whole of it, at least. The
    gradients are averaged before each step, so the batch size stays that of the protocol; dropout
    draws other masks, and a BatchNorm in training sees the statistics of a micro-batch."""
    epoch_cache: EpochCache | None = None
    """Where augmented epochs are stored; without it they are made in memory."""
    prefetch: Callable[[int, int], None] = _ignore
    """Receives the augmented epochs to make ahead: the first, and the end."""


@dataclass
class RunContext:
    """One run with its data and its backbone."""

    run: Run
    data: Dataset
    network: keras.Model
    device_lock: DeviceLock
    callbacks: Callbacks
    options: TrainOptions
    build_seconds: float = 0.0
    """That it took to build the backbone."""

    def __post_init__(self) -> None:
        # Of all steps that are made from here on.
        set_xla(xla_pays(self.run.phase_on_images, self.stream.rows))
        inference_batch = self.run.protocol.inference_batch
        batch_size = math.ceil(inference_batch / self.options.micro_batches)
        self.compile_timer = CompileTimer()
        self.extractor = FeatureExtractor(
            self.network, self.device_lock, batch_size, self.compile_timer
        )
        self.parts = split_indices(self.run.split, self.data)
        self.preparing_seconds = 0.0 if compiles_ahead() else None

    def prepare(self, programs: Sequence[Callable[[], None]]) -> None:
        """Compile programs ahead, while other runs may train; then wait for a turn to train."""
        turn, clock = self.device_lock.turn, self.device_lock.waits.clock
        start = clock()
        if self.preparing_seconds is not None:
            turn.give_back()
            self.callbacks.on_phase_begin(COMPILING, 1)
            for compile_ahead in programs:
                with self.device_lock.preparing(compiles=True):  # Others measure in between.
                    compile_ahead()
            self.preparing_seconds += clock() - start
        turn.take(lambda: self.callbacks.on_phase_begin(WAITING, 1))

    @cached_property
    def further_sizes(self) -> tuple[int, ...]:
        """Batch sizes whose rate is measured besides the protocol's, as memory allows."""
        gpu = device_memory() is not None and self.options.micro_batches == 1
        return further_sizes(self.extractor.batch_size, gpu=gpu)

    @property
    def forward_programs(self) -> tuple[Callable[[], None], ...]:
        """What compiles every pass of the evaluation ahead."""
        return self.extractor.programs(self.extractor.batch_size, *self.further_sizes)

    def classify(self, head: keras.Model, features: np.ndarray) -> np.ndarray:
        """Probabilities (n, K) of features (n, width)."""
        with self.device_lock.shared():
            return classify(head, features)

    def ids(self, part: str) -> np.ndarray:
        return np.asarray(getattr(self.parts, part))

    @cached_property
    def validation_targets(self) -> np.ndarray:
        """One-hot float32 (n, K)."""
        classes = len(self.data.class_names)
        return np.eye(classes, dtype=np.float32)[self.data.labels[self.ids("validation")]]

    @cached_property
    def stream(self) -> Stream:
        """The training images of an epoch before augmentation, rare classes oversampled."""
        return training_stream(self.run, self.data)

    @cached_property
    def _epoch_reader(self) -> EpochReader:
        make_options = {"share_device": self.device_lock.shared}
        options = self.options
        return EpochReader(self.stream, options.epoch_cache, make_options, options.prefetch)

    def training_epoch(self, epoch: int, end: int) -> tuple[DeviceImages, np.ndarray, np.ndarray]:
        """Images, the rows of an epoch in them, and its targets (n, K), augmented if so set.

        ``end``: of the epochs that this phase may read.
        """
        if not self.run.protocol.augmentation.policy:
            return self._data_images, self.stream.ids, self.stream.targets
        augmented = self._epoch_reader.read(epoch, end)
        rows = np.arange(len(augmented.images))
        return self.to_device(augmented.images), rows, augmented.targets

    def images(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """An array of images on the host, and the rows of the part in it."""
        if part == "validation" and self.run.protocol.augmentation.validation_share:
            return self._augmented_validation, np.arange(len(self.ids(part)))
        return self.data.images, self.ids(part)

    def device_images(self, part: str) -> tuple[DeviceImages, np.ndarray]:
        """The same, in the device's memory if they fit."""
        images, rows = self.images(part)
        of_data = images is self.data.images
        return (self._data_images if of_data else self._augmented_validation_images), rows

    def to_device(self, images: np.ndarray) -> DeviceImages:
        """Images in the device's memory, unless it was too small for a whole batch before."""
        return DeviceImages(images, self._image_budget())

    def _image_budget(self) -> int:
        return 0 if self.options.micro_batches > 1 else memory_budget()

    @property
    def epoch_on_device(self) -> Any:
        """The images that the steps of an epoch read on the device, or an ``array_spec`` of them.

        None: they are on the host.
        """
        if not self.run.protocol.augmentation.policy:
            return self._data_images.array if self._data_images.on_device else None
        shape = (self.stream.rows, *self.data.images.shape[1:])
        return array_spec(shape, "uint8") if math.prod(shape) <= self._image_budget() else None

    @cached_property
    def _data_images(self) -> DeviceImages:
        return self.to_device(self.data.images)

    @cached_property
    def _augmented_validation(self) -> np.ndarray:
        return augmented_validation(self.run, self.data, self.ids("validation"))

    @cached_property
    def _augmented_validation_images(self) -> DeviceImages:
        return self.to_device(self._augmented_validation)
