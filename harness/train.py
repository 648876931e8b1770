"""One Run -> Predictions, told as one linear story.

    seed → build the backbone → train (frozen head, then fine-tuning; or from scratch)
         → pooled features of every part → probabilities → Predictions
         → the same of the shifted copy of the test images, and in further views

Every stream of randomness is derived from the run's seed and the epoch, never from global state
that an earlier step could have moved.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from harness import throughput
from harness.checkpoint import Keeper, Progress
from harness.data.shifted import Shifted
from harness.data.split import carry_out
from harness.head import HeadLearner, Standard
from harness.judge import Judge, images_to_pass
from harness.learn import PhaseName, Stage, learn, oversampled, sample_weights
from harness.nouns import Cost, Dataset, Epoch, Parts, Phase, Predictions, Run
from harness.pieces import build_head, build_optimizer, seed_everything, unfreeze, whole_parts
from harness.quiet import Quiet
from zoo.build import WeightsFiles, build
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
    keeper: Keeper | None = None
    """Where a phase on images keeps its checkpoints."""
    parts: int = 1
    """Micro-batches to a batch. More than one where memory was too small for it whole: gradients
    are averaged over them before each step, so the batch size of the protocol stays what it is.
    Dropout draws other masks, and a BatchNorm that learns sees the statistics of a micro-batch."""


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
    seed_everything(run.seed)
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
    seconds["training"] = clock.lap() + bench.seconds_before

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
    """XLA costs more than it gives on TensorFlow's CPU kernels, and minutes for a deep network;
    PyTorch's compiler wants a C++ compiler on the machine."""
    backend = keras.backend.backend()
    on_cpu = os.environ.get("CUDA_VISIBLE_DEVICES", "") == "-1"
    return False if backend == "torch" or (backend == "tensorflow" and on_cpu) else "auto"


# --- the bench -----------------------------------------------------------------------------------


@dataclass
class _ImageLearner:
    """The whole network, learning from images. See harness.learn."""

    model: keras.Model
    bench: _Bench
    head: keras.Model
    parts: int = 1

    def __post_init__(self) -> None:
        loss = self.bench.run.protocol.loss
        self._targets = self.bench.labels[0]
        self._weights = sample_weights(loss, self._targets)
        self._ids = self.bench.ids("train")[self.bench.drawn]

    def step(self, order: np.ndarray, learning_rate: float) -> float:
        """In parts of equal size, so that the mean of their losses is that of the batch."""
        self.model.optimizer.learning_rate = learning_rate
        losses = [self._gradient(part) for part in np.split(order, self.parts)]
        return float(np.mean(losses))

    def _gradient(self, order: np.ndarray) -> float:
        images = self.bench.data.images[self._ids[order]]
        with self.bench.events.quiet.working():
            logs = self.model.train_on_batch(
                images, self._targets[order], self._weights[order], return_dict=True
            )
        return float(logs["plain"])

    def validate(self) -> np.ndarray:
        features = self.bench.sweep_over("validation")
        return numbers(self.head(features, training=False))

    def state(self) -> list[np.ndarray]:
        return self.model.get_weights()

    def restore(self, state: list[np.ndarray]) -> None:
        self.model.set_weights(state)

    # Across processes

    def keep(self, name: PhaseName, stage: Stage) -> None:
        keeper = self.bench.events.keeper
        if keeper is None or not keeper.due():
            return
        arrays = {f"model-{i}": numbers(v) for i, v in enumerate(self.model.variables)}
        arrays |= {f"optimizer-{i}": numbers(v) for i, v in enumerate(self._moments())}
        arrays["steps"] = numbers(self.model.optimizer.iterations)
        if stage.pace.best_epoch != stage.pace.epoch:
            arrays |= {f"best-{i}": value for i, value in enumerate(stage.best)}
        keeper.keep(name, Progress(stage.pace, stage.curve, arrays))

    def recall(self, name: PhaseName) -> Stage | None:
        keeper = self.bench.events.keeper
        kept = keeper.recall(name) if keeper is not None else None
        if kept is None:
            return None
        optimizer = self.model.optimizer
        optimizer.build(self.model.trainable_variables)
        for prefix, variables in (("model", self.model.variables), ("optimizer", self._moments())):
            for i, variable in enumerate(variables):
                variable.assign(kept.arrays[f"{prefix}-{i}"])
        # Keras counts micro-batches; the checkpoint counts steps, and fits any number of parts.
        optimizer.variables[0].assign(kept.arrays["steps"] * self.parts)
        best = [array for key, array in kept.arrays.items() if key.startswith("best-")]
        return Stage(kept.pace, kept.curve, best or self.state())

    def _moments(self) -> list[keras.Variable]:
        """What the optimizer remembers from one step to the next, beside their number."""
        return [
            variable
            for variable in self.model.optimizer.variables[1:]
            if "gradient_accumulator" not in variable.path
        ]


def numbers(tensor: Any) -> np.ndarray:
    """Any backend's tensor or variable as an array of the host's."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


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
    seconds_before: float = 0.0
    """Of the epochs that a process before this one has trained."""
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
        size = min(phase.batch_size, len(self.ids("train")))
        parts = whole_parts(size, self.events.parts)
        optimizer = build_optimizer(phase.optimizer, parts)
        model.compile(optimizer, loss, metrics=[plain], jit_compile=_jit())
        self.events.phase(name, phase.epochs)
        learner = _ImageLearner(model, self, head, parts)
        curve = learn(learner, name, phase, self.labels, self.run.seed, self.events.epoch)
        self.history += curve
        if self.events.keeper is not None:
            self.seconds_before = sum(e.seconds for e in curve[: self.events.keeper.resumed])

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
        ids, size = self.ids(part), self.inference_batch
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

    @property
    def inference_batch(self) -> int:
        return math.ceil(self.run.protocol.inference_batch / self.events.parts)

    def _batch(self, ids: np.ndarray, at: int) -> np.ndarray:
        size = self.inference_batch
        return np.asarray(self.data.images[np.resize(ids[at : at + size], size)])

    def _measured(self, ids: np.ndarray, out: np.ndarray) -> int:
        """Begin a pass with nothing else on the device, and time it until that is enough."""
        meter, at = throughput.Meter(self.run.protocol.test_views), 0
        size = self.inference_batch
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
            lambda found: numbers(head(found, training=False)).astype(np.float32),
            self.inference_batch,
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
                self.inference_batch, protocol.precision, self.events.device, exclusive
            ),
            peak_memory_mb=throughput.peak_memory_mb(),
            peak_device_memory_mb=throughput.peak_device_memory_mb(),
        )
