"""Images where the steps need them: in the memory of a GPU when they fit, else on the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from keras import ops

from harness.training.compilation import compiled
from harness.training.device_memory import device_memory

MEMORY_SHARE = 0.25
"""Of the device's free memory for one array of images; the rest is for the network."""


class DeviceImages:
    """An array of images (n, S, S, 3), in the device's memory if it fits ``memory_budget`` bytes.

    A budget of 0 keeps them on the host, where a CPU's steps read them without a copy.
    """

    def __init__(self, images: np.ndarray, memory_budget: int) -> None:
        self.on_device = images.nbytes <= memory_budget
        self.array = ops.convert_to_tensor(np.asarray(images)) if self.on_device else images

    def take(self, indices: np.ndarray) -> Any:
        """The batch of images at these indices."""
        if self.on_device:
            return _gather()(self.array, indices.astype(np.int32))
        return np.asarray(self.array[indices])


def memory_budget() -> int:
    """Bytes that an array of images may take on the device now; 0 on a CPU."""
    memory = device_memory()
    return int(MEMORY_SHARE * memory.free) if memory else 0


@cache
def _gather() -> Callable[..., Any]:
    return compiled(lambda images, indices: ops.take(images, indices, axis=0))
