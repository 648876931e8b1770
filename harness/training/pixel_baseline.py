"""The floor that any backbone must clear: what the plain pixels say to a linear classifier."""

from __future__ import annotations

import cv2
import numpy as np

from harness.data.shifted_test import Shifted
from harness.evaluation import metrics
from harness.schema.dataset import Dataset, DataSummary, Parts
from harness.schema.predictions import SHIFTED, Predictions
from harness.schema.records import External, ExternalRecord
from harness.schema.run import Run
from harness.storage.records import Store
from harness.training.head import HeadLearner
from harness.training.loop import learn

NAME = "raw-pixels"
SIDE = 24
"""Pixels of the images that it sees: enough for a cell's size, shape and colour."""


def raw_pixels(
    run: Run, data: Dataset, parts: Parts, shifted: Shifted | None = None
) -> dict[str, Predictions]:
    """Predictions of a linear classifier on small images, trained as the protocol's head is.

    The frozen phase's optimizer, batches, epochs and early stopping, without a hidden layer. With
    a shifted copy of the test images, of its mixed part too.
    """
    protocol, classes = run.protocol, len(data.class_names)
    # Undamped: pixels vary alike, and a floor is to be as high as it honestly can.
    plain = {"units": (), "dropout": 0.0, "standardise": True, "damping": 0.0}
    head = protocol.head.model_copy(update=plain)
    pixels = {
        name: _small(data.images, getattr(parts, name)) for name in ("train", "validation", "test")
    }
    one_hot = np.eye(classes, dtype=np.float32)[data.labels]
    learner = HeadLearner(
        (head, protocol.loss, protocol.frozen.optimizer),
        (pixels["train"], one_hot[parts.train]),
        pixels["validation"],
        run.seed,
    )
    labels = (one_hot[parts.train], one_hot[parts.validation])
    learn(learner, "frozen", protocol.frozen, labels, run.seed)
    asked = {"validation": parts.validation, "test": parts.test}
    if shifted is not None:
        pixels[SHIFTED] = _small(shifted.images, shifted.mixed)
        asked[SHIFTED] = parts.test
    return {
        name: Predictions(ids, data.labels[ids], learner.predict(pixels[name]).astype(np.float32))
        for name, ids in asked.items()
    }


def _small(images: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(n, SIDE * SIDE * 3) float32 in 0-1."""
    out = np.empty((len(ids), SIDE * SIDE * 3), dtype=np.float32)
    for i, id_ in enumerate(ids):
        small = cv2.resize(images[id_], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        out[i] = small.reshape(-1)
    return out / 255


def is_kept(store: Store, run: Run, asked_shifted: bool = False) -> bool:
    """Whether the floor lies beside a run already, with its score on harmed images if asked."""
    external = External(name=NAME, reference=run)
    if not store.record_path(external).exists():
        return False
    return not asked_shifted or SHIFTED in store.predictions(external)


def keep(
    store: Store,
    run: Run,
    data: Dataset,
    parts: Parts,
    like: tuple[str, DataSummary],
    shifted: Shifted | None = None,
) -> None:
    """Put the floor beside a run. ``like``: the board's profile and data."""
    external = External(name=NAME, reference=run)
    predictions = raw_pixels(run, data, parts, shifted)
    profile, summary = like
    record = ExternalRecord(
        external=external,
        baseline=True,
        note=f"floor: a linear classifier on the images at {SIDE} × {SIDE} pixels, no network",
        profile=profile,
        data=summary,
        **dict(metrics.evaluate(predictions, summary.class_names)),
    )
    store.save_predictions(external, predictions)
    store.save(record)
