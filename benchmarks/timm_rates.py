"""Images a second of timm's networks on an NVIDIA GPU, beside which ours are read.

    python benchmarks/timm_rates.py [--size 96] [--batch 32] [--compile] NAME ...

Training (AdamW, cross-entropy) and inference, in bfloat16 autocast and channels last, on images in
the GPU's memory; eager, and with ``--compile`` compiled, with the seconds that this takes. It needs
torch and timm.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

CLASSES = 8
SECONDS = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["mobilenetv3_large_100", "resnet50"])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    if missing := [name for name in ("torch", "timm") if find_spec(name) is None]:
        print(f"timm_rates.py: not installed: {', '.join(missing)}; nothing to measure")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("timm_rates.py: no NVIDIA GPU; nothing to measure")
        return 0
    for name in arguments.names:
        for compiled in (False, True) if arguments.compile else (False,):
            print(measure(name, arguments.size, arguments.batch, compiled), flush=True)
    return 0


def measure(name: str, size: int, batch: int, compiled: bool) -> str:
    """One line: images a second in training and inference."""
    import timm
    import torch

    images = torch.rand(batch, 3, size, size, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device="cuda")
    model = timm.create_model(name, num_classes=CLASSES).cuda()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    network = torch.compile(model) if compiled else model

    def train() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def predict() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            network(images)

    line = f"{name}, {'compiled' if compiled else 'eager'}:"
    for what, step in (("training", train), ("inference", predict)):
        model.train(step is train)
        first, rate = images_a_second(step, torch.cuda.synchronize, batch)
        line += f" {what} {rate:,.0f} images/s (first step {first:.1f} s)"
    return line


def images_a_second(
    step: Callable[[], None], wait: Callable[[], None], batch: int
) -> tuple[float, float]:
    """Seconds of the first step, and images a second of warm ones."""
    start = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - start
    for _ in range(10):
        step()
    wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        for _ in range(10):
            step()
        wait()
        count += 10
    return first, count * batch / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
