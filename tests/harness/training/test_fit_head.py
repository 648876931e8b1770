"""A head on features of frozen backbones, without a framework."""

from __future__ import annotations

import inspect

import numpy as np

from harness.schema.protocol import Head, Phase, Protocol
from harness.training.head import fit_head
from tests.harness.ensembling.members import f1


def test_a_head_uses_the_features_of_every_member() -> None:
    """Two members that each know half of the label: together they know it all."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    first = np.c_[labels % 2, rng.normal(size=400)] + rng.normal(0, 0.1, (400, 2))
    second = np.c_[labels // 2, rng.normal(size=400)] + rng.normal(0, 0.1, (400, 2))
    features = np.concatenate([first, second], axis=1).astype(np.float32)
    targets = np.eye(4, dtype=np.float32)[labels]
    train, validation = (features[:300], targets[:300]), (features[300:], targets[300:])
    protocol = Protocol(head=Head(units=(16,), dropout=0), frozen=Phase(epochs=150, patience=20))
    head = fit_head(train, validation, protocol, 0, [2, 2])
    assert f1(head.predict(features[300:]), labels[300:]) > 0.9


def test_fitting_takes_no_test_arrays() -> None:
    parameters = list(inspect.signature(fit_head).parameters)
    assert parameters == ["train", "validation", "protocol", "seed", "widths"]
