"""The passes of a run over its parts: features, throughput, predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import keras
import numpy as np

from harness.schema.predictions import FROZEN, Predictions
from harness.training.context import RunContext
from harness.training.predictor import Predictor, count_passes
from harness.training.throughput import Meter

PARTS = ("train", "validation", "test")


def extract_features(context: RunContext, parts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Pooled features float32 (n, width) of each part."""
    context.prepare(context.forward_programs)
    total = sum(len(context.ids(part)) for part in parts)
    context.callbacks.on_phase_begin("features", total)
    on_batch_end = context.callbacks.counter(total)
    return {part: _extract(context, part, 0, on_batch_end) for part in parts}


def predict_frozen(context: RunContext, head: keras.Model) -> dict[str, Predictions]:
    """Predictions of the test images by a head on the frozen backbone, in the first view."""
    features = extract_features(context, ("test",))["test"]
    predicted = _predictor(context, head).predict_first_view(context.ids("test"), features)
    return {FROZEN: replace(predicted, features=None)}


def predict_validation(
    context: RunContext, head: keras.Model, known: dict[str, np.ndarray]
) -> np.ndarray:
    """Probabilities (n, K) of the validation images in the first view; ``known``: features."""
    features = known.get("validation")
    if features is None:
        features = _extract(context, "validation", 0, lambda _: None)
    return context.classify(head, features)


def predict_parts(
    context: RunContext, head: keras.Model, known: dict[str, np.ndarray], meter: Meter
) -> dict[str, Predictions]:
    """Predictions of all parts and of the shifted copy, in the protocol's views.

    ``known``: features that have been extracted already; those of the test part are not, and
    ``meter`` measures their pass.
    """
    views, shifted = context.run.protocol.test_views, context.options.shifted
    sizes = {part: len(context.ids(part)) for part in PARTS}
    total = sum(size for part, size in sizes.items() if part not in known)
    total += count_passes(views, sizes["validation"] + sizes["test"], shifted)
    context.callbacks.on_phase_begin("evaluation", total)
    on_batch_end = context.callbacks.counter(total)

    features = dict(known)
    for part in ("train", "validation"):
        if part not in known:
            features[part] = _extract(context, part, 0, on_batch_end)
    measured = context.extractor.measure(*context.images("test"), meter)
    on_batch_end(len(measured))
    rest = _extract(context, "test", len(measured), on_batch_end)
    features["test"] = np.concatenate([measured, rest])

    predictor = _predictor(context, head, on_batch_end)
    predictions = {"train": predictor.predict_first_view(context.ids("train"), features["train"])}
    for part in ("validation", "test"):
        ids = context.ids(part)
        predictions |= predictor.predict(part, context.images(part), ids, features[part])
    return predictions if shifted is None else predictions | predictor.predict_shifted(shifted)


def _predictor(
    context: RunContext, head: keras.Model, on_batch_end: Callable[[int], object] = lambda _: None
) -> Predictor:
    return Predictor(
        context.data.labels,
        lambda take, rows: context.extractor.extract(take, rows, on_batch_end),
        partial(context.classify, head),
        context.run.protocol.test_views,
    )


def _extract(
    context: RunContext, part: str, start: int, on_batch_end: Callable[[int], object]
) -> np.ndarray:
    """Features of a part from the image at position ``start`` on."""
    images, rows = context.device_images(part)
    return context.extractor.extract(images.take, rows[start:], on_batch_end)
