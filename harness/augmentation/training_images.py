"""What a run trains and validates on: the stream of its training images, augmented validation."""

from __future__ import annotations

import numpy as np

from harness.augmentation import engine
from harness.augmentation.stream import Augment, Stream
from harness.data.sampling import sample_indices
from harness.data.splitting import split_indices
from harness.schema.augmentation import Augmentation
from harness.schema.dataset import Dataset
from harness.schema.run import Run


def training_stream(run: Run, data: Dataset) -> Stream:
    """The stream of a run's training images, oversampled if its loss says so."""
    ids = split_indices(run.split, data).train
    targets = np.eye(len(data.class_names), dtype=np.float32)[data.labels[ids]]
    rows = sample_indices(run.protocol.loss, targets, run.seed)
    return Stream(
        images=data.images,
        ids=ids[rows],
        targets=targets[rows],
        augmentation=run.protocol.augmentation,
        seed=run.seed,
        data=data.fingerprint,
        augment=augment_function(run.protocol.augmentation),
        plain=len(ids) if run.protocol.augmentation.only_copies else 0,
    )


def augmented_validation(run: Run, data: Dataset, ids: np.ndarray) -> np.ndarray:
    """The validation images uint8 (n, S, S, 3), a share of them augmented from the run's seed."""
    settings = run.protocol.augmentation
    images = np.array(data.images[ids])
    seed = [run.seed, *b"validation"]
    count = round(settings.validation_share * len(ids))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(ids))[:count])
    if count:
        targets = np.zeros((count, 1), np.float32)
        augment = augment_function(settings)
        images[chosen], _ = augment(settings.validation_policy, images[chosen], targets, seed)
    return images


def augment_function(augmentation: Augmentation) -> Augment:
    """The code of its provider; that of keras-cv loads TensorFlow and makes it deterministic."""
    if augmentation.provider == "wbc-bench":
        return engine.augment
    import tensorflow as tf

    from harness.augmentation import keras_cv

    tf.config.experimental.enable_op_determinism()
    return keras_cv.augment
