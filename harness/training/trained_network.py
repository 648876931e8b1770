"""The trained network of a finished run, from the weights among its artefacts."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from harness.training.explanation import TrainedNetwork
from harness.training.head import Standardizer
from harness.training.model import build_head, seed_everything
from zoo.factory import build, load_weights
from zoo.registry import find


def load(trained: TrainedNetwork, classes: int) -> tuple[keras.Model, keras.Model]:
    """Backbone and head as they were when the run predicted. Raises WeightsError."""
    run = trained.run
    seed_everything(run.seed)  # Of a frozen backbone with random weights.
    files = tuple(Path(file) if file else None for file in trained.weights)
    network = build(find(run.recipe), run.protocol.image_size, files or None)
    if trained.backbone_trained:
        load_weights(network, trained.backbone_file)
    width, constants = network.output.shape[-1], None
    if run.protocol.head.standardise and not run.from_scratch:
        constants = Standardizer(np.zeros(width, np.float32), np.ones(width, np.float32))
    head = build_head(run.protocol.head, width, classes, constants)
    load_weights(head, trained.head_file, constants=2 * width if constants else 0)
    return network, head
