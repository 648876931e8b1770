"""One Run -> Predictions, told as one linear story.

    seed → build the backbone → train (frozen head, then fine-tuning; or from scratch)
         → pooled features of every part → probabilities → Predictions
         → the same of the shifted copy of the test images, and in further views

Every stream of randomness is derived from the run's seed and the epoch, never from global state
that an earlier step could have moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from harness import throughput
from harness.data.shifted import Shifted
from harness.data.split import carry_out
from harness.head import HeadLearner, Standard
from harness.judge import Judge, images_to_pass
from harness.learn import PhaseName, learn, oversampled, sample_weights
from harness.nouns import Cost, Dataset, Epoch, Head, Parts, Phase, Predictions, Run
from harness.nouns import Optimizer as OptimizerSettings
from harness.quiet import Quiet
from zoo.build import WeightsFiles, backbone_layers, branches, build
from zoo.table import find

PART_NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Events:
    """Where a training reports to, and the turns that it takes at its device."""

    phase: Callable[[str, int], None]
    """A phase begins: its name and its steps."""
    step: Callable[[int, int], None]
    """Images done of images to do, of a pass over the data."""
    epoch: Callable[[Epoch], None]
    quiet: Quiet
    device: str


@dataclass
class Trained:
    """What a training leaves behind: the networks, and what they say of every part."""

    network: keras.Model
    head: keras.Model
    predictions: dict[str, Predictions]
    history: tuple[Epoch, ...]
    cost: Cost
    seconds: dict[str, float] = field(default_factory=dict)


def train(
    run: Run,
    data: Dataset,
    weights: WeightsFiles,
    events: Events,
    shifted: Shifted | None = None,
) -> Trained:
    """Train one run and predict its three parts, and the shifted copy of its test images.

    ``weights``: as ``zoo.build`` takes them, None where they are random. Raises WeightsError,
    ConfigError or DataError where the user's input does not fit.
    """
    clock = Clock()
    protocol = run.protocol
    parts = carry_out(run.split, data)
    keras.utils.set_random_seed(run.seed)
    keras.config.set_dtype_policy(protocol.precision)

    events.phase("build", 1)
    with events.quiet.working():
        network = build(find(run.recipe), protocol.image_size, weights)
        network.jit_compile = _jit()
    seconds = {"build": clock.lap()}

    bench = _Bench(run, data, parts, network, events)
    if run.weights.source == "random" and protocol.from_scratch is not None:
        head = bench.from_scratch(protocol.from_scratch)
        features = None
    else:
        features = bench.features(PART_NAMES)
        head = bench.frozen_head(features, protocol.frozen)
        if protocol.fine_tuning is not None:
            bench.fine_tuning(head, protocol.fine_tuning)
            features = None
    seconds["training"] = clock.lap()

    # A backbone that has learnt gives new features; a frozen one's are still good.
    features = features or bench.features(PART_NAMES)
    predictions = bench.predictions(head, features, shifted)
    seconds["evaluation"] = clock.lap()
    return Trained(network, head, predictions, tuple(bench.history), bench.cost(head), seconds)


class Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        self._last, lap = now, now - self._last
        return lap


def _jit() -> bool | str:
    """XLA costs more than it gives on TensorFlow's CPU kernels, and minutes for a deep network."""
    import os

    on_cpu = os.environ.get("CUDA_VISIBLE_DEVICES", "") == "-1"
    return False if keras.backend.backend() == "tensorflow" and on_cpu else "auto"


# --- the pieces of a network ---------------------------------------------------------------------


def build_head(head: Head, features: int, classes: int, standard: Standard | None) -> keras.Model:
    """The classifier as a Keras model: (B, features) to (B, classes) probabilities in float32.

    The same layers, weight for weight, as harness.head's, so that fine-tuning goes on from there.
    """
    layers = keras.layers
    inputs = keras.Input((features,), dtype="float32")
    x = inputs
    if standard is not None:
        x = _Standardise(standard, name="standardise")(x)
    penalty = {"kernel_regularizer": keras.regularizers.L1L2(head.l1, head.l2)}
    for i, units in enumerate(head.units, start=1):
        x = layers.Dense(units, name=f"dense_{i}", **penalty)(x)
        if head.batch_norm:
            x = layers.BatchNormalization(name=f"batch_norm_{i}")(x)
        x = layers.ReLU(name=f"relu_{i}")(x)
        if head.dropout:
            x = layers.Dropout(head.dropout, name=f"dropout_{i}")(x)
    x = layers.Dense(classes, name="logits", **penalty)(x)
    outputs = layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="head")


class _Standardise(keras.layers.Layer):  # type: ignore[misc]
    """(x - mean) * scale, fixed and in float32 whatever the policy; carries no weights."""

    def __init__(self, standard: Standard, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self._standard = standard

    def call(self, inputs: Any) -> Any:
        return self._standard(inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


def build_optimizer(settings: OptimizerSettings) -> keras.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay or None
    optimizers = keras.optimizers
    match settings.name:
        case "adam":
            return optimizers.Adam(rate, weight_decay=decay)
        case "adamw":
            return optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        case "nadam":
            return optimizers.Nadam(rate, weight_decay=decay)
        case "lion":
            return optimizers.Lion(rate, weight_decay=decay)
        case "sgd":
            return optimizers.SGD(
                rate, momentum=settings.momentum, nesterov=settings.momentum > 0, weight_decay=decay
            )


def unfreeze(network: keras.Model, part: float | int, pretrained: bool) -> None:
    """Leave only the last part of each backbone trainable, a fraction or a number of its layers.

    Pretrained BatchNorm stays frozen, and with it in inference mode: its statistics are worth
    more than what a small set could estimate.
    """
    network.trainable = True
    for branch in branches(network):
        layers = backbone_layers(branch)
        last = round(part * len(layers)) if isinstance(part, float) else min(part, len(layers))
        for i, layer in enumerate(layers):
            batch_norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = i >= len(layers) - last and not (batch_norm and pretrained)


# --- the bench -----------------------------------------------------------------------------------


@dataclass
class _ImageLearner:
    """The whole network, learning from images. See harness.learn."""

    model: keras.Model
    bench: _Bench
    head: keras.Model

    def __post_init__(self) -> None:
        loss = self.bench.run.protocol.loss
        self._targets = self.bench.labels[0]
        self._weights = sample_weights(loss, self._targets)
        self._ids = self.bench.ids("train")[self.bench.drawn]

    def step(self, order: np.ndarray, learning_rate: float) -> float:
        self.model.optimizer.learning_rate = learning_rate
        images = self.bench.data.images[self._ids[order]]
        with self.bench.events.quiet.working():
            logs = self.model.train_on_batch(
                images, self._targets[order], self._weights[order], return_dict=True
            )
        return float(logs["plain"])

    def validate(self) -> np.ndarray:
        features = self.bench.sweep_over("validation")
        return np.asarray(self.head(features, training=False))

    def state(self) -> list[np.ndarray]:
        return self.model.get_weights()

    def restore(self, state: list[np.ndarray]) -> None:
        self.model.set_weights(state)


@dataclass
class _Bench:
    """A run with its data and its backbone on the table, and the learning curve so far."""

    run: Run
    data: Dataset
    parts: Parts
    network: keras.Model
    events: Events
    history: list[Epoch] = field(default_factory=list)
    trainable: int = 0
    _meter: tuple[throughput.Meter, bool] | None = None

    def ids(self, part: str) -> np.ndarray:
        return np.asarray(getattr(self.parts, part))

    def targets(self, part: str) -> np.ndarray:
        """One-hot labels float32 (n, K)."""
        classes = len(self.data.class_names)
        return np.eye(classes, dtype=np.float32)[self.data.labels[self.ids(part)]]

    @cached_property
    def drawn(self) -> np.ndarray:
        """The training images of an epoch, by position: each once, or the rare ones again."""
        targets = self.targets("train")
        if self.run.protocol.loss.oversampling:
            return oversampled(targets, self.run.seed)
        return np.arange(len(targets))

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return self.targets("train")[self.drawn], self.targets("validation")

    # Training

    def frozen_head(self, features: dict[str, np.ndarray], phase: Phase) -> keras.Model:
        """Phase 1: the head alone, on features that were computed once."""
        protocol = self.run.protocol
        learner = HeadLearner(
            (protocol.head, protocol.loss, phase.optimizer),
            (features["train"][self.drawn], self.labels[0]),
            features["validation"],
            self.run.seed,
        )
        self.trainable = learner.parameters
        self.events.phase("frozen", phase.epochs)
        with self.events.quiet.working():
            self.history += learn(
                learner, "frozen", phase, self.labels, self.run.seed, self.events.epoch
            )
        head = self.head(learner.standard)
        head.set_weights(learner.keras_weights())
        return head

    def fine_tuning(self, head: keras.Model, phase: Phase) -> None:
        """Phase 2: the last part of the backbone together with the trained head."""
        unfreeze(self.network, phase.unfreeze, self.run.weights.source != "random")
        self.learn_images("fine-tuning", phase, head)

    def from_scratch(self, phase: Phase) -> keras.Model:
        """The only phase of random weights: everything learns."""
        head = self.head(None)
        unfreeze(self.network, 1.0, pretrained=False)
        self.learn_images("from scratch", phase, head)
        return head

    def head(self, standard: Standard | None) -> keras.Model:
        width, classes = self.network.output.shape[-1], len(self.data.class_names)
        return build_head(self.run.protocol.head, width, classes, standard)

    def learn_images(self, name: PhaseName, phase: Phase, head: keras.Model) -> None:
        model = keras.Model(self.network.input, head(self.network.output))
        self.trainable = throughput.count(model.trainable_weights)
        loss = keras.losses.CategoricalCrossentropy(
            label_smoothing=self.run.protocol.loss.label_smoothing
        )
        plain = keras.metrics.CategoricalCrossentropy(name="plain")
        optimizer = build_optimizer(phase.optimizer)
        model.compile(optimizer, loss, metrics=[plain], jit_compile=_jit())
        self.events.phase(name, phase.epochs)
        learner = _ImageLearner(model, self, head)
        self.history += learn(learner, name, phase, self.labels, self.run.seed, self.events.epoch)

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
        """One pass of the backbone over a part. Short batches are filled up: nothing recompiles."""
        ids, size = self.ids(part), self.run.protocol.inference_batch
        out = np.empty((len(ids), self.network.output.shape[-1]), dtype=np.float32)
        begin = 0
        if measured:
            begin = self._measured(ids, out)
        for at in range(begin, len(ids), size):
            batch = self._batch(ids, at)
            found = self.forward(batch)
            out[at : at + size] = found[: len(ids) - at]
            if total:
                self.events.step(done + min(at + size, len(ids)), total)
        return out

    def forward(self, batch: np.ndarray) -> np.ndarray:
        with self.events.quiet.working():
            return np.asarray(self.network.predict_on_batch(batch))

    def _batch(self, ids: np.ndarray, at: int) -> np.ndarray:
        size = self.run.protocol.inference_batch
        return np.asarray(self.data.images[np.resize(ids[at : at + size], size)])

    def _measured(self, ids: np.ndarray, out: np.ndarray) -> int:
        """Begin a pass with nothing else on the device, and time it until that is enough."""
        meter, at = throughput.Meter(self.run.protocol.test_views), 0
        size = self.run.protocol.inference_batch
        with self.events.quiet.alone() as exclusive:
            while at < len(ids) and not meter.enough():
                found = meter.measure(self.network, self._batch(ids, at))
                out[at : at + size] = found[: len(ids) - at]
                at += size
            while meter.short:  # A tiny test part: go round again, for the timing alone.
                meter.measure(self.network, self._batch(ids, 0))
        self._meter = (meter, exclusive)
        return at

    def predictions(
        self, head: keras.Model, features: dict[str, np.ndarray], shifted: Shifted | None
    ) -> dict[str, Predictions]:
        """Of the three parts, of the shifted copy, and of both tests in the first view alone."""
        views = self.run.protocol.test_views
        ids = {part: self.ids(part) for part in PART_NAMES}
        judged = len(ids["validation"]), len(ids["test"])
        total = images_to_pass(views, judged, shifted)
        if total:
            self.events.phase("judging", total)
        judge = Judge(
            self.data,
            self.forward,
            lambda found: np.asarray(head(found, training=False), dtype=np.float32),
            self.run.protocol.inference_batch,
            views,
            lambda done: self.events.step(done, total),
        )
        told = {"train": judge.train(ids["train"], features["train"])}
        told |= judge.part("validation", ids["validation"], features["validation"])
        told |= judge.part("test", ids["test"], features["test"])
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
                protocol.inference_batch, protocol.precision, self.events.device, exclusive
            ),
            peak_memory_mb=throughput.peak_memory_mb(),
            peak_device_memory_mb=throughput.peak_device_memory_mb(),
        )
