"""What trainings side by side on one NVIDIA GPU cost each other, without and with MPS.

    python benchmarks/side_by_side.py [--most 3] [--name mobilenetv3_large_100]

Each process trains timm's network at batch 32 and 96 px in bfloat16, its whole step one CUDA graph,
so that no host is waited for. Without MPS (NVIDIA's Multi-Process Service) the processes take turns
on the GPU. It needs torch and timm; it starts an MPS daemon of its own where there is the program.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

BATCH, SIZE, CLASSES = 32, 96, 8
SECONDS, READY_SECONDS = 2.0, 120.0
MPS = "nvidia-cuda-mps-control"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--name", default="mobilenetv3_large_100")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if missing := [name for name in ("torch", "timm") if find_spec(name) is None]:
        print(f"side_by_side.py: not installed: {', '.join(missing)}; nothing to measure")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("side_by_side.py: no NVIDIA GPU; nothing to measure")
        return 0
    if arguments.worker:
        train(arguments.worker, arguments.name)
        return 0
    compare(arguments.name, arguments.most, {}, "without MPS")
    if shutil.which(MPS):
        with tempfile.TemporaryDirectory() as folder:
            paths = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
            environment = {**os.environ, **paths}
            subprocess.run([MPS, "-d"], env=environment, check=True)
            try:
                compare(arguments.name, arguments.most, paths, "with MPS")
            finally:
                subprocess.run([MPS], input="quit\n", text=True, env=environment, check=False)
    return 0


def compare(name: str, most: int, variables: dict[str, str], how: str) -> None:
    """Print images a second of one process, two, and so on."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        command = [sys.executable, __file__, "--name", name, "--worker"]
        processes = [
            subprocess.Popen([*command, str(folder / str(i))], env={**os.environ, **variables})
            for i in range(most)
        ]
        places = [folder / str(i) for i in range(most)]
        try:
            wait_for([place.with_suffix(".ready") for place in places])
            for count in range(1, most + 1):
                for place in places[:count]:
                    place.with_suffix(f".go{count}").touch()
                results = [place.with_suffix(f".rate{count}") for place in places[:count]]
                wait_for(results)
                rates = [float(path.read_text()) for path in results]
                each = ", ".join(f"{rate:,.0f}" for rate in rates)
                print(f"{how}, {count} at once: {sum(rates):,.0f} images/s ({each})", flush=True)
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def wait_for(files: Sequence[Path]) -> None:
    start = time.perf_counter()
    while not all(file.exists() for file in files):
        if time.perf_counter() - start > READY_SECONDS:
            raise TimeoutError("side_by_side.py: a training does not start")
        time.sleep(0.01)


def train(place: Path, name: str) -> None:
    """Train for SECONDS whenever a file says so, and write images a second; until terminated."""
    replay = captured_step(name)
    place.with_suffix(".ready").touch()
    while True:
        for go in place.parent.glob(f"{place.name}.go*"):
            go.unlink()
            start, steps = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS:
                replay(10)
                steps += 10
            partial = place.with_suffix(".partial")
            partial.write_text(str(BATCH * steps / (time.perf_counter() - start)))
            partial.rename(place.with_suffix(go.suffix.replace("go", "rate")))
        time.sleep(0.002)


def captured_step(name: str) -> Callable[[int], None]:
    """A function that executes so many training steps and waits for them."""
    import timm
    import torch

    channels_last = torch.channels_last
    model = timm.create_model(name, num_classes=CLASSES).cuda().to(memory_format=channels_last)
    images = torch.rand(BATCH, 3, SIZE, SIZE, device="cuda").contiguous(memory_format=channels_last)
    labels = torch.randint(CLASSES, (BATCH,), device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, capturable=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(5):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(times: int) -> None:
        for _ in range(times):
            graph.replay()
        torch.cuda.synchronize()

    replay(20)
    return replay


if __name__ == "__main__":
    sys.exit(main())
