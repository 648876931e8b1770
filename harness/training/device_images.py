"""Images where the steps are: in the memory of a GPU when they fit, else with the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

from harness.training.train_step import compiled

SHARE = 0.25
"""Of the device's free memory that an array of images may take: the rest is for the network."""


class DeviceImages:
    """An array of images (n, S, S, 3), in the device's memory if it has room for them.

    ``room``: bytes that they may take there; 0 keeps them with the host, which is where a CPU's
    steps find them without a copy.
    """

    def __init__(self, images: np.ndarray, memory_budget: int) -> None:
        self.on_device = images.nbytes <= memory_budget
        self._images = ops.convert_to_tensor(np.asarray(images)) if self.on_device else images

    def take(self, ids: np.ndarray) -> Any:
        """The images at these positions, gathered where they are."""
        if self.on_device:
            return _gather()(self._images, ids.astype(np.int32))
        return np.asarray(self._images[ids])


def memory_budget() -> int:
    """Bytes of images that the device in use may hold now; 0 on a CPU."""
    return int(SHARE * _free())


@cache
def _gather() -> Callable[..., Any]:
    return compiled(lambda images, ids: ops.take(images, ids, axis=0))


def _free() -> int:
    """Bytes that this process can still take on its first GPU, by the backend's own account.

    JAX tells the limit of its pool and what of it is in use; TensorFlow the limit of its device,
    and what is in use; PyTorch asks the driver.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stats = jax.devices()[0].memory_stats() or {}  # None on a CPU.
        return max(0, stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))
    if backend == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.client import device_lib

        if not tf.config.list_logical_devices("GPU"):
            return 0
        limits = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        in_use = tf.config.experimental.get_memory_info("GPU:0")["current"]
        return max(0, int(limits[0]) - int(in_use))
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 0
