"""The frozen phase against the plain loop that people write today.

The plain loop: Keras ``fit`` on a frozen backbone plus head, fed by ``tf.data`` with a shuffle, so
that every epoch runs the backbone again. Ours: features once, then the head on arrays. The same
images, head, optimizer and number of epochs; ratio of wall times in one process, and both F1s.

    python benchmarks/frozen_phase.py [--data SOURCE] [--recipe NAME] [--train N] [--epochs N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from harness.data.decoded import open_dataset
from harness.data.sources import prepare
from harness.data.split import carry_out
from harness.devices import Device
from harness.nouns import Dataset, Parts, Phase, Protocol, Run, Split, Subset, Weights

for _key, _value in Device("cpu", "CPU").environment.items():
    os.environ.setdefault(_key, _value)


def ours(run: Run, data: Dataset, weights: Path | None) -> tuple[float, np.ndarray]:
    from harness import train
    from harness.quiet import Quiet

    events = train.Events(
        phase=lambda *_: None,
        step=lambda *_: None,
        epoch=lambda _: None,
        quiet=Quiet("benchmark", Path(tempfile.mkdtemp())),
        device="CPU",
    )
    begin = time.perf_counter()
    trained = train.train(run, data, weights, events)
    return time.perf_counter() - begin, trained.predictions["test"].probabilities


def plain(run: Run, data: Dataset, parts: Parts, weights: Path | None) -> tuple[float, np.ndarray]:
    import keras
    import tensorflow as tf

    from harness.pieces import build_head
    from zoo.build import build
    from zoo.table import find

    phase, size = run.protocol.frozen, run.protocol.image_size
    begin = time.perf_counter()
    keras.utils.set_random_seed(run.seed)
    backbone = build(find(run.recipe), size, weights)
    backbone.trainable = False
    # Batch normalisation in the place of our standardising: the plain loop has no features to
    # take a mean of before it starts.
    inputs = keras.Input((size, size, 3))
    features = keras.layers.BatchNormalization()(backbone(inputs, training=False))
    head = build_head(run.protocol.head, backbone.output.shape[-1], len(data.class_names), None)
    model = keras.Model(inputs, head(features))
    model.compile(
        keras.optimizers.Adam(phase.optimizer.learning_rate),
        "sparse_categorical_crossentropy",
        jit_compile=False,
    )

    def stream(ids: np.ndarray, shuffle: bool) -> tf.data.Dataset:
        pairs = tf.data.Dataset.from_tensor_slices((data.images[ids], data.labels[ids]))
        pairs = pairs.shuffle(len(ids), seed=run.seed) if shuffle else pairs
        return pairs.batch(phase.batch_size).prefetch(tf.data.AUTOTUNE)

    model.fit(
        stream(parts.train, True),
        validation_data=stream(parts.validation, False),
        epochs=phase.epochs,
        verbose=0,
    )
    probabilities = model.predict(stream(parts.test, False), verbose=0)
    return time.perf_counter() - begin, probabilities


def main() -> None:
    from harness.metrics import macro_f1
    from zoo.table import find
    from zoo.weights import imagenet_file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="smear")
    parser.add_argument("--recipe", default="lite0")
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()

    recipe = find(asked.recipe)
    pretrained = recipe.name == "lite0"
    weights = imagenet_file(recipe) if pretrained else None
    folder = prepare(asked.data, 96, Path(tempfile.gettempdir()) / "wbc-bench-benchmarks")
    data = open_dataset(folder)
    split = Split(subset=Subset(train=asked.train, validation=300, test=600))
    # A patience as long as the phase: both run the same number of epochs.
    frozen = Phase(epochs=asked.epochs, patience=asked.epochs)
    run = Run(
        recipe=recipe.name,
        weights=Weights(source="imagenet" if pretrained else "random"),
        protocol=Protocol(frozen=frozen),
        data=data.fingerprint,
        split=split,
    )
    parts = carry_out(split, data)
    labels, classes = data.labels[parts.test], len(data.class_names)
    print(f"{recipe.title}, {data.name}, {len(parts.train)} training images, {asked.epochs} epochs")
    seconds = {}
    for name, (taken, probabilities) in (
        ("features once (ours)", ours(run, data, weights)),
        ("plain fit loop", plain(run, data, parts, weights)),
    ):
        seconds[name] = taken
        f1 = macro_f1(labels, probabilities.argmax(axis=1), classes)
        print(f"{name:22s} {taken:8.1f} s   test macro F1 {100 * f1:.2f} %")
    one, other = seconds.values()
    print(f"the plain loop takes {other / one:.1f} times as long")


if __name__ == "__main__":
    main()
