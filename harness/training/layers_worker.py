"""The child process that lists a network's layers: ``python -m harness.training.layers_worker``.

Recipe and image size come on stdin; the layers go to stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from harness.execution.child import Emit, serve


def _execute(task: str, emit: Emit) -> dict[str, Any]:
    import keras  # noqa: F401

    from zoo.factory import build, flatten_layers
    from zoo.registry import find

    request = json.loads(task)
    network = build(find(request["recipe"]), request["image_size"])
    rows = [
        (layer.name, type(layer).__name__, _shape(layer.output), f"{layer.count_params():,}")
        for layer in flatten_layers(network)
    ]
    return {"layers": rows, "parameters": network.count_params()}


def _shape(outputs: Any) -> str:
    tensors = outputs if isinstance(outputs, list) else [outputs]
    shapes = (" x ".join(str(side) for side in tensor.shape[1:]) for tensor in tensors)
    return ", ".join(shapes)


if __name__ == "__main__":
    sys.exit(serve(_execute))
