"""Concatenation: the protocol's head, trained on the features of all members side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.schema.protocol import Protocol
from harness.training.head import HeadLearner
from harness.training.loop import fit

FeaturesAndTargets = tuple[np.ndarray, np.ndarray]
"""(n, sum of widths) and one-hot (n, K)."""


def fit_concatenation(
    train: FeaturesAndTargets,
    validation: FeaturesAndTargets,
    protocol: Protocol,
    seed: int,
    widths: Sequence[int],
) -> HeadLearner:
    """A head trained as in the frozen phase; early stopping watches the validation images.

    ``widths`` are those of the members' features, each of which is standardised by itself.
    """
    from threadpoolctl import threadpool_limits

    settings = (protocol.head, protocol.loss, protocol.frozen.optimizer)
    head = HeadLearner(settings, train, validation[0], seed, widths)
    with threadpool_limits(1):  # As in stacking.
        fit(head, "frozen", protocol.frozen, validation[1], seed)
    return head
