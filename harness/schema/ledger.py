"""What a run took from its machine, so that rows can be held to account: the fairness ledger."""

from __future__ import annotations

from harness.schema.base import FrozenModel


class Ledger(FrozenModel):
    """What one run was given. Micro-batches of one batch count as that batch, once."""

    epochs_on_features: int
    """Of the head alone, in the frozen phase: the backbone does not run in them."""
    feature_rows_learnt: int
    """Rows of stored features in the gradient steps of those epochs; no image is touched."""
    images_embedded: int
    """Training images that the frozen backbone turned into such features, without gradients; an
    image counts in every pass, once plain and once for each augmented epoch."""
    epochs_on_images: int
    """Of the network, backbone included: fine-tuning and from scratch."""
    images_learnt: int
    """Images in the gradient steps of those epochs, once a step."""
    device_seconds: float
    """Wall seconds inside the turns that the run took at its device: loading the framework,
    building, augmenting, training, every pass and the measurement. Waiting for a turn, reading and
    writing are not in it. Runs side by side share turns, and each counts its own in full. Epochs
    from a checkpoint count with the seconds that they took then. On a GPU that no other run is on,
    all seconds from the start to the end of the evaluation: steps outlast their turns there."""
    energy_joules: float | None = None
    """That the device drew from the run's start to its end, idle or not: a GPU's board, or the
    processor packages. None where it is not told, or where part of the run was another process's.
    """
    energy_exclusive: bool = False
    """Whether the device was the run's own in its sweep; else others' energy is in it too."""
