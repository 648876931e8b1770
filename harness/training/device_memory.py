"""Memory of the GPU, by the backend's own account."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import keras


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the first GPU: in use by this process now and at most so far, and still free."""

    in_use: int
    peak: int
    free: int


def device_memory() -> DeviceMemory | None:
    """None without a GPU, and where the backend does not say."""
    match keras.backend.backend():
        case "jax":
            import jax

            stats = jax.devices()[0].memory_stats() or {}  # None on a CPU.
            if "bytes_in_use" not in stats:
                return None
            in_use = int(stats["bytes_in_use"])
            free = max(0, int(stats.get("bytes_limit", 0)) - in_use)
            return DeviceMemory(in_use, int(stats.get("peak_bytes_in_use", in_use)), free)
        case "tensorflow":
            import tensorflow as tf

            if not tf.config.list_logical_devices("GPU"):
                return None
            info = tf.config.experimental.get_memory_info("GPU:0")
            in_use = int(info["current"])
            return DeviceMemory(in_use, int(info["peak"]), max(0, _tensorflow_limit() - in_use))
        case _:
            import torch

            if not torch.cuda.is_available():
                return None
            in_use, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            return DeviceMemory(int(in_use), int(peak), int(torch.cuda.mem_get_info()[0]))


@cache
def _tensorflow_limit() -> int:
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices()
    return next(int(d.memory_limit) for d in devices if d.device_type == "GPU")
