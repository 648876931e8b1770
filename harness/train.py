"""One Run -> Predictions, told as one linear story.

    seed → build the backbone → train (frozen head, then fine-tuning; or from scratch)
         → pooled features of every part → probabilities → Predictions

Every stream of randomness is derived from the run's seed and the epoch, never from global state
that an earlier step could have moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from harness import pace as pacing
from harness import throughput
from harness.data.split import carry_out
from harness.metrics import cross_entropy, macro_f1
from harness.nouns import Cost, Dataset, Epoch, Head, Loss, Parts, Phase, Predictions, Run
from harness.nouns import Optimizer as OptimizerSettings
from harness.quiet import Quiet
from zoo.build import backbone_layers, build
from zoo.table import find

PhaseName = Literal["frozen", "fine-tuning", "from scratch"]
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


def train(run: Run, data: Dataset, weights: Path | None, events: Events) -> Trained:
    """Train one run and predict its three parts.

    ``weights``: the file of the run's pretrained weights, None when they are random. Raises
    WeightsError, ConfigError or DataError where the user's input does not fit.
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
    predictions = {name: bench.predictions(name, head, features[name]) for name in PART_NAMES}
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


def build_head(
    head: Head, features: int, classes: int, statistics: np.ndarray | None
) -> keras.Model:
    """The classifier: (B, features) pooled features to (B, classes) probabilities in float32.

    ``statistics``: train features (n, features) to standardise by, or None to leave them alone.
    """
    layers = keras.layers
    inputs = keras.Input((features,), dtype="float32")
    x = inputs
    if head.standardise and statistics is not None:
        mean = statistics.mean(axis=0, dtype=np.float64)
        deviation = statistics.std(axis=0, dtype=np.float64)
        # A feature that never moves says nothing; it must not become a division by zero.
        still = deviation < 1e-6 * np.maximum(np.abs(mean), 1e-30)
        variance = np.where(still, np.inf, np.square(deviation))
        x = _Standardise(mean.tolist(), (1 / np.sqrt(variance)).tolist(), name="standardise")(x)
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

    def __init__(self, mean: list[float], scale: list[float], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self._mean = np.asarray(mean, dtype=np.float32)
        self._scale = np.asarray(scale, dtype=np.float32)

    def call(self, inputs: Any) -> Any:
        return (inputs - self._mean) * self._scale

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


def class_weights(loss: Loss, labels: np.ndarray, classes: int) -> np.ndarray:
    """One weight a class (K,): ones, balanced (n / (K n_k)) by the training labels, or given."""
    if loss.class_weight == "none":
        return np.ones(classes)
    if loss.class_weight == "balanced":
        counts = np.bincount(labels, minlength=classes)
        return len(labels) / (classes * np.maximum(counts, 1))
    return np.asarray(loss.class_weight)


def sample_weights(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of soft targets (n, K): the mix of the class weights that the mix of classes deserves."""
    return np.asarray(targets @ weights, dtype=np.float32)


def unfreeze(network: keras.Model, part: float | int, pretrained: bool) -> None:
    """Leave only the last part of the backbone trainable, a fraction or a number of its layers.

    Pretrained BatchNorm stays frozen, and with it in inference mode: its statistics are worth
    more than what a small set could estimate.
    """
    layers = backbone_layers(network)
    last = round(part * len(layers)) if isinstance(part, float) else min(part, len(layers))
    network.trainable = True
    for i, layer in enumerate(layers):
        batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = i >= len(layers) - last and not (batch_norm and pretrained)


# --- the bench -----------------------------------------------------------------------------------


@dataclass
class _Bench:
    """A run with its data and its backbone on the table, and the learning curve so far."""

    run: Run
    data: Dataset
    parts: Parts
    network: keras.Model
    events: Events
    history: list[Epoch] = field(default_factory=list)
    _meter: tuple[throughput.Meter, bool] | None = None
    _trainable: int = 0

    def ids(self, part: str) -> np.ndarray:
        return np.asarray(getattr(self.parts, part))

    def targets(self, part: str) -> np.ndarray:
        """One-hot labels float32 (n, K)."""
        classes = len(self.data.class_names)
        return np.eye(classes, dtype=np.float32)[self.data.labels[self.ids(part)]]

    # Training

    def frozen_head(self, features: dict[str, np.ndarray], phase: Phase) -> keras.Model:
        """Phase 1: the head alone, on features that were computed once."""
        train = features["train"]
        head = self.head(train)
        self._trainable = throughput.count(head.trainable_weights)

        def batches(order: np.ndarray) -> np.ndarray:
            return train[order]

        def validate() -> np.ndarray:
            return np.asarray(head(features["validation"], training=False))

        self.fit("frozen", phase, head, batches, validate)
        return head

    def fine_tuning(self, head: keras.Model, phase: Phase) -> None:
        """Phase 2: the last part of the backbone together with the trained head."""
        unfreeze(self.network, phase.unfreeze, self.run.weights.source != "random")
        self.fit_images("fine-tuning", phase, head)

    def from_scratch(self, phase: Phase) -> keras.Model:
        """The only phase of random weights: everything learns."""
        head = self.head(None)
        unfreeze(self.network, 1.0, pretrained=False)
        self.fit_images("from scratch", phase, head)
        return head

    def head(self, statistics: np.ndarray | None) -> keras.Model:
        width = self.network.output.shape[-1]
        classes = len(self.data.class_names)
        return build_head(self.run.protocol.head, width, classes, statistics)

    def fit_images(self, name: PhaseName, phase: Phase, head: keras.Model) -> None:
        model = keras.Model(self.network.input, head(self.network.output))
        self._trainable = throughput.count(model.trainable_weights)
        train_ids = self.ids("train")

        def batches(order: np.ndarray) -> np.ndarray:
            return self.data.images[train_ids[order]]

        def validate() -> np.ndarray:
            features = self._pass("validation", measured=False)
            return np.asarray(head(features, training=False))

        self.fit(name, phase, model, batches, validate)

    def fit(
        self,
        name: PhaseName,
        phase: Phase,
        model: keras.Model,
        batches: Callable[[np.ndarray], np.ndarray],
        validate: Callable[[], np.ndarray],
    ) -> None:
        """Epochs until the pace says stop; the best epoch's weights are in the model then."""
        self.events.phase(name, phase.epochs)
        loss = keras.losses.CategoricalCrossentropy(
            label_smoothing=self.run.protocol.loss.label_smoothing
        )
        plain = keras.metrics.CategoricalCrossentropy(name="plain")
        model.compile(build_optimizer(phase.optimizer), loss, metrics=[plain], jit_compile=_jit())
        targets, validation = self.targets("train"), self.targets("validation")
        labels, classes = validation.argmax(axis=1), validation.shape[1]
        weights = sample_weights(
            targets,
            class_weights(self.run.protocol.loss, targets.argmax(axis=1), classes),
        )
        pace, best = pacing.start(phase), None
        clock = Clock()
        while not pace.finished:
            model.optimizer.learning_rate = pace.learning_rate
            losses, done = [], 0
            for order in self.order(name, pace.epoch, phase.batch_size, len(targets)):
                with self.events.quiet.working():
                    logs = model.train_on_batch(
                        batches(order), targets[order], weights[order], return_dict=True
                    )
                losses.append(float(logs["plain"]))
                done += len(order)
                self.events.step(done, len(targets))
            train_loss = float(np.mean(losses))
            probabilities = validate()
            advanced = pacing.advance(phase, pace, cross_entropy(validation, probabilities))
            if advanced.best_epoch == advanced.epoch:
                best = model.get_weights()
            line = Epoch(
                phase=name,
                epoch=advanced.epoch,
                learning_rate=pace.learning_rate,
                train_loss=train_loss,
                validation_loss=cross_entropy(validation, probabilities),
                validation_f1=macro_f1(labels, probabilities.argmax(axis=1), classes),
                seconds=clock.lap(),
            )
            self.history.append(line)
            self.events.epoch(line)
            pace = advanced
        if best is not None:
            model.set_weights(best)

    def order(self, name: str, epoch: int, batch: int, count: int) -> Iterator[np.ndarray]:
        """The epoch's shuffled batches. All are full, so that nothing is compiled twice."""
        stream = np.random.default_rng([self.run.seed, epoch, *name.encode()])
        shuffled = stream.permutation(count)
        batch = min(batch, count)
        for begin in range(0, count - batch + 1, batch):
            yield shuffled[begin : begin + batch]

    # Evaluation

    def features(self, parts: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Pooled features float32 (n, width) of each part; the test pass is also measured."""
        total = sum(len(self.ids(part)) for part in parts)
        self.events.phase("features", total)
        done, features = 0, {}
        for part in parts:
            features[part] = self._pass(part, part == "test", done, total)
            done += len(self.ids(part))
        return features

    def _pass(self, part: str, measured: bool, done: int = 0, total: int = 0) -> np.ndarray:
        """One pass of the backbone over a part. Short batches are filled up: nothing recompiles."""
        ids, size = self.ids(part), self.run.protocol.inference_batch
        out = np.empty((len(ids), self.network.output.shape[-1]), dtype=np.float32)
        begin = 0
        if measured:
            begin = self._measured(ids, out)
        for at in range(begin, len(ids), size):
            batch = self._batch(ids, at)
            with self.events.quiet.working():
                found = np.asarray(self.network.predict_on_batch(batch))
            out[at : at + size] = found[: len(ids) - at]
            if total:
                self.events.step(done + min(at + size, len(ids)), total)
        return out

    def _batch(self, ids: np.ndarray, at: int) -> np.ndarray:
        size = self.run.protocol.inference_batch
        return np.asarray(self.data.images[np.resize(ids[at : at + size], size)])

    def _measured(self, ids: np.ndarray, out: np.ndarray) -> int:
        """Begin a pass with nothing else on the device, and time it until that is enough."""
        meter, size, at = throughput.Meter(), self.run.protocol.inference_batch, 0
        with self.events.quiet.alone() as exclusive:
            while at < len(ids) and not meter.enough():
                found = meter.measure(self.network, self._batch(ids, at))
                out[at : at + size] = found[: len(ids) - at]
                at += size
            while meter.short:  # A tiny test part: go round again, for the timing alone.
                meter.measure(self.network, self._batch(ids, 0))
        self._meter = (meter, exclusive)
        return at

    def predictions(self, part: str, head: keras.Model, features: np.ndarray) -> Predictions:
        probabilities = np.asarray(head(features, training=False), dtype=np.float32)
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("training diverged: the probabilities are not finite")
        ids = self.ids(part)
        return Predictions(ids, np.asarray(self.data.labels[ids]), probabilities, features)

    def cost(self, head: keras.Model) -> Cost:
        assert self._meter is not None, "the features come before the cost"
        meter, exclusive = self._meter
        protocol = self.run.protocol
        return Cost(
            parameters=self.network.count_params() + head.count_params(),
            trainable_parameters=self._trainable,
            multiply_adds=throughput.multiply_adds(self.network) + throughput.multiply_adds(head),
            throughput=meter.result(
                protocol.inference_batch, protocol.precision, self.events.device, exclusive
            ),
            peak_memory_mb=throughput.peak_memory_mb(),
            peak_device_memory_mb=throughput.peak_device_memory_mb(),
        )
