"""The ledger of a run: what it used, so that rows can be compared fairly."""

from __future__ import annotations

from harness.schema.base import Amount, Count, FrozenModel, added_field


class Ledger(FrozenModel):
    """What one run used. The micro-batches of a batch count as that batch, once."""

    epochs_on_features: Count
    """Epochs of the head alone, in the frozen phase: the backbone does not run in them."""
    feature_rows_learnt: Count
    """Rows of stored features in the gradient steps of those epochs."""
    images_embedded: Count
    """Training images that the frozen backbone turned into features, without gradients; an image
    counts in every pass, once without augmentation and once for each augmented epoch."""
    epochs_on_images: Count
    """Epochs of the whole network: fine-tuning and from scratch."""
    images_learnt: Count
    """Images in the gradient steps of those epochs, once a step."""
    device_seconds: Amount
    """Wall seconds in which the run held its device's lock: loading the framework, building,
    augmenting, training, inference and measuring throughput, without waiting, reading and writing.
    Runs that share the lock each count in full. Epochs from a checkpoint count with the seconds
    that they took. On a GPU without other runs: all seconds from the start to the end of the
    evaluation, since steps are asynchronous there; where runs take turns, those of its turn."""
    energy_joules: Amount | None = None
    """Energy of the device from the run's start to its end, idle or not: a GPU's board, or the
    processor packages. None where it cannot be measured, or where the run was resumed."""
    energy_exclusive: bool = False
    """Whether no other run of the sweep used the device; else their energy is included."""
    preparing_seconds: Amount | None = added_field(None)
    """Wall seconds of compiling ahead of training, while other runs could train on the device;
    part of ``timings.compile``. None: not measured."""
    waiting_seconds: Amount | None = added_field(None)
    """Wall seconds of waiting for the device or for another process; in no part of the timings.
    None: not measured."""
    programs_compiled: Count | None = added_field(None)
    """Programs that XLA compiled for this run. None: not counted by the backend."""
    programs_cached: Count | None = added_field(None)
    """Programs that were found compiled in the cache."""
    xla: bool | None = added_field(None)
    """Whether XLA compiled the steps: always on JAX; with TensorFlow on a GPU where so many
    training steps are planned that it pays. None: not recorded."""
