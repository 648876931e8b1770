"""The child process that explains predictions: ``python -m harness.training.explain_worker``.

An ExplainTask comes on stdin; maps and curves go to files, events to stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError, WeightsError
from harness.evaluation import deletion
from harness.execution.child import Emit, serve, step_reporter
from harness.execution.locks import DeviceLock
from harness.schema.events import PhaseEvent
from harness.storage.files import write_arrays
from harness.training.explanation import ExplainTask, TrainedNetwork

BATCH = 16
"""Images whose gradients are computed at once."""


def _execute(task_text: str, emit: Emit) -> dict[str, Any]:
    from harness.data.image_cache import open_dataset

    task = ExplainTask.model_validate_json(task_text)
    emit(PhaseEvent(name="explaining", steps=len(task.networks) * len(task.ids)))
    data = open_dataset(Path(task.data))
    images, classes = np.asarray(data.images[np.array(task.ids)]), len(data.class_names)
    report, done, problems = step_reporter(emit), 0, []

    def on_image() -> None:
        nonlocal done
        done += 1
        report(done, len(task.networks) * len(task.ids))

    for i, network in enumerate(task.networks):
        try:
            arrays = _explain((network, classes), task, images, on_image)
            write_arrays(Path(task.output) / f"{i}.npz", arrays)
            problems.append("")
        except WeightsError as error:
            problems.append(f"{error}{network.remedy}")
        except UserError as error:
            problems.append(str(error))
    return {"problems": problems}


def _explain(
    of: tuple[TrainedNetwork, int],
    task: ExplainTask,
    images: np.ndarray,
    on_image: Callable[[], None],
) -> dict[str, np.ndarray]:
    """The arrays of an Explanation; ``of``: a network and its number of classes."""
    trained = of[0]
    device_lock, protocol = DeviceLock(task.device), trained.run.protocol
    with device_lock.shared():
        import keras

        from harness.training.feature_extractor import FeatureExtractor
        from harness.training.gradcam import GradCam, class_scores, feature_scores
        from harness.training.train_step import classify
        from harness.training.trained_network import load

        keras.config.set_dtype_policy(protocol.precision)
        network, head = load(*of)
        gradcam = GradCam(network)
        extractor = FeatureExtractor(network, device_lock, protocol.inference_batch)

    def predict(images: np.ndarray) -> np.ndarray:
        features = extractor.extract(lambda rows: images[rows], np.arange(len(images)))
        return classify(head, features)

    probabilities = predict(images)
    classes, maps, of_copies = probabilities.argmax(axis=1), [], []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        scores = feature_scores if task.without_head else class_scores(head, classes[rows])
        with device_lock.shared():
            maps += list(gradcam.maps(images[rows], scores))
    for image, heat, k, id_ in zip(images, maps, classes, task.ids, strict=True):
        copies = np.stack([*deletion.deletions(image, heat, [trained.run.seed, id_])])
        of_copies.append(predict(copies)[:, k])
        on_image()
    curves = deletion.curves(probabilities.max(axis=1), np.stack(of_copies))
    return {"probabilities": probabilities, "maps": np.stack(maps), **vars(curves)}


if __name__ == "__main__":
    sys.exit(serve(_execute))
