"""The pixel baseline, which any backbone must beat: a linear classifier on small images."""

from __future__ import annotations

import cv2
import numpy as np

from harness.data.shifted_test import Shifted
from harness.evaluation import metrics
from harness.schema.dataset import Dataset, DataSummary, Parts
from harness.schema.predictions import SHIFTED, Predictions
from harness.schema.records import PIXEL_BASELINE, External, ExternalRecord
from harness.schema.run import Run
from harness.storage.records import Store
from harness.training.head import HeadLearner
from harness.training.loop import fit

SIDE = 24
"""Pixels of the small images: enough for a cell's size, shape and colour."""


def predict(
    run: Run, data: Dataset, parts: Parts, shifted: Shifted | None = None
) -> dict[str, Predictions]:
    """Predictions of a linear classifier that is trained as the protocol's head is.

    The optimizer, batches, epochs and early stopping are those of the frozen phase. With a shifted
    copy of the test images, its mixed part is predicted too.
    """
    protocol, one_hot = run.protocol, np.eye(len(data.class_names), dtype=np.float32)[data.labels]
    # Undamped: pixels vary alike, and the baseline is to be as strong as it can be.
    linear = {"units": (), "dropout": 0.0, "standardise": True, "damping": 0.0,
              "input_batch_norm": False, "input_dropout": 0.0}  # fmt: skip
    settings = protocol.head.model_copy(update=linear), protocol.loss, protocol.frozen.optimizer
    train = _pixels(data.images, parts.train), one_hot[parts.train]
    validation = _pixels(data.images, parts.validation)
    learner = HeadLearner(settings, train, validation, run.seed)
    fit(learner, "frozen", protocol.frozen, one_hot[parts.validation], run.seed)
    pixels = {
        "validation": (parts.validation, validation),
        "test": (parts.test, _pixels(data.images, parts.test)),
    }
    if shifted is not None:
        pixels[SHIFTED] = parts.test, _pixels(shifted.images, shifted.mixed)
    return {
        name: Predictions(ids, data.labels[ids], learner.predict(rows).astype(np.float32))
        for name, (ids, rows) in pixels.items()
    }


def _pixels(images: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(n, SIDE * SIDE * 3) float32, 0 to 1."""
    pixels = np.empty((len(ids), SIDE * SIDE * 3), dtype=np.float32)
    for row, image in zip(pixels, (images[i] for i in ids), strict=True):
        row[:] = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    return pixels / 255


def exists(store: Store, run: Run, with_shifted: bool = False) -> bool:
    """Whether the run's baseline has a record, and its score on the shifted test if asked for."""
    external = External(name=PIXEL_BASELINE, reference=run)
    record = store.find(external)
    if record is None or not record.baseline:
        return False
    return not with_shifted or SHIFTED in store.predictions(external)


def add(
    store: Store,
    run: Run,
    data: Dataset,
    parts: Parts,
    board: tuple[str, DataSummary],
    shifted: Shifted | None = None,
) -> None:
    """Train the baseline of a run and save its record. ``board``: the profile and the data."""
    external = External(name=PIXEL_BASELINE, reference=run)
    predictions = predict(run, data, parts, shifted)
    profile, summary = board
    record = ExternalRecord(
        external=external,
        baseline=True,
        note=f"baseline: a linear classifier on the images at {SIDE} × {SIDE} pixels, no network",
        profile=profile,
        data=summary,
        **dict(metrics.evaluate(predictions, summary.class_names)),
    )
    store.save_predictions(external, predictions)
    store.save(record)
