"""One Run -> Predictions, told as one linear story.

    seed → build the backbone → train (frozen head, then fine-tuning; or from scratch)
         → pooled features of every part → probabilities → Predictions
         → the same of the shifted copy of the test images, and in further views

Every stream of randomness is derived from the run's seed and the epoch, never from global state
that an earlier step could have moved.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import keras
import numpy as np

from harness.augmentation.epoch_cache import EpochReader
from harness.augmentation.training_images import training_stream
from harness.data.splitting import split_indices
from harness.schema.dataset import Dataset
from harness.schema.predictions import Predictions
from harness.schema.protocol import Phase
from harness.schema.records import Cost, Epoch
from harness.schema.run import Run
from harness.training import throughput
from harness.training.context import NOTHING, PART_NAMES, Events, RunContext, TrainOptions
from harness.training.head import HeadLearner
from harness.training.loop import PhaseName, learn
from harness.training.model import build_optimizer, equal_micro_batches, seed_everything, unfreeze
from harness.training.network_learner import NetworkLearner
from harness.training.train_step import TrainingStep
from zoo.factory import WeightsFiles, branches, build
from zoo.registry import find


@dataclass
class Trained:
    """What a training leaves behind: the networks, and what they say of every part."""

    network: keras.Model
    head: keras.Model
    predictions: dict[str, Predictions]
    history: tuple[Epoch, ...]
    cost: Cost
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each stage; ``before``: of the training, what a process before this one has done."""
    embedded: int = 0
    """Training images that a frozen backbone made features of, in every pass."""
    parts: int = 1
    """Into which each batch was cut."""


def train(
    run: Run,
    data: Dataset,
    weights: WeightsFiles,
    events: Events,
    beside: TrainOptions = NOTHING,
) -> Trained:
    """Train one run and predict its three parts, and the shifted copy of its test images.

    ``weights``: as ``zoo.factory`` takes them, None where they are random. Raises WeightsError,
    ConfigError or DataError where the user's input does not fit.
    """
    clock = Clock()
    protocol = run.protocol
    parts = split_indices(run.split, data)
    seed_everything(run.seed)
    keras.config.set_dtype_policy(protocol.precision)

    events.phase("build", 1)
    with events.device_lock.shared():
        network = build(find(run.recipe), protocol.image_size, weights)
    seconds = {"build": clock.lap()}

    context = RunContext(
        run, data, parts, network, events, _epoch_reader(run, data, events, beside)
    )
    if run.weights.source == "random" and protocol.from_scratch is not None:
        head = from_scratch(context, protocol.from_scratch)
        features = None
    else:
        features = context.features(PART_NAMES)
        head = frozen_head(context, features, protocol.frozen)
        if protocol.fine_tuning is not None:
            fine_tuning(context, head, protocol.fine_tuning)
            features = None
    seconds["training"] = clock.lap() + context.seconds_before
    seconds["before"] = context.seconds_before

    # A backbone that has learnt gives new features; a frozen one's are still good.
    features = features or context.features(PART_NAMES)
    predictions = context.predictions(head, features, beside.shifted)
    seconds |= {"evaluation": clock.lap(), "compile": context.compiling.seconds}
    history, cost = tuple(context.history), context.cost(head)
    return Trained(
        network, head, predictions, history, cost, seconds, context.embedded, context.parts_used
    )


def frozen_head(context: RunContext, features: dict[str, np.ndarray], phase: Phase) -> keras.Model:
    """Phase 1: the head alone, on features that were computed once."""
    protocol = context.run.protocol
    learner = HeadLearner(
        (protocol.head, protocol.loss, phase.optimizer),
        (features["train"][context.sample_indices], context.labels[0]),
        features["validation"],
        context.run.seed,
        [branch.output.shape[-1] for branch in branches(context.network)],
    )
    context.trainable, context.embedded = learner.parameters, len(features["train"])
    labels = context.varied_labels(1)
    if context.reader is not None:
        learner.vary(context.varied_features(context.reader, phase))
    context.events.phase("frozen", phase.epochs)
    with context.events.device_lock.shared():
        context.history += learn(
            learner, "frozen", phase, labels, context.run.seed, context.events.epoch
        )
    head = context.head(learner.standard)
    head.set_weights(learner.keras_weights())
    return head


def fine_tuning(context: RunContext, head: keras.Model, phase: Phase) -> None:
    """Phase 2: the last part of the backbone together with the trained head."""
    unfreeze(context.network, phase.unfreeze, context.run.weights.source != "random")
    learn_images(context, "fine-tuning", phase, head)


def from_scratch(context: RunContext, phase: Phase) -> keras.Model:
    """The only phase of random weights: everything learns."""
    head = context.head(None)
    unfreeze(context.network, 1.0, pretrained=False)
    learn_images(context, "from scratch", phase, head)
    return head


def learn_images(context: RunContext, name: PhaseName, phase: Phase, head: keras.Model) -> None:
    model = keras.Model(context.network.input, head(context.network.output))
    context.trainable = throughput.count(model.trainable_weights)
    size = min(phase.batch_size, len(context.ids("train")))
    parts = context.parts_used = equal_micro_batches(size, context.events.parts)
    optimizer = build_optimizer(phase.optimizer, parts)
    training = TrainingStep(model, optimizer, context.compiling)
    context.events.phase(name, phase.epochs)
    learner = NetworkLearner(training, context, head, phase.epochs, parts)
    labels = context.varied_labels(phase.epochs)
    curve = learn(learner, name, phase, labels, context.run.seed, context.events.epoch)
    context.history += curve
    if context.events.keeper is not None:
        context.seconds_before = sum(e.seconds for e in curve[: context.events.keeper.resumed])


def _epoch_reader(
    run: Run, data: Dataset, events: Events, options: TrainOptions
) -> EpochReader | None:
    if not run.protocol.augmentation.policy:
        return None
    make_options = {"share_device": events.device_lock.shared}
    stream = training_stream(run, data)
    return EpochReader(stream, options.epoch_cache, make_options, options.prefetch)


class Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        self._last, lap = now, now - self._last
        return lap
