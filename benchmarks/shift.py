"""What the shifted copy costs: images a second of each kind, and the seconds of a whole copy.

    python benchmarks/shift.py [images]

Kinds: the middle severity, on one core, processor time, so that a busy machine does not count.
Copies: wall seconds from decoded images to the file, synced, for as many test images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from harness.data import corruptions, shifted_test
from harness.data.image_cache import open_dataset
from harness.data.sources import prepare
from harness.schema.dataset import Split

SIZE = 96
FULL = 200
"""Test images of the full copy, which are 55 times as many."""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2392
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as cache:
        folder = prepare(f"smear@{max(count, 400)}", SIZE, Path(cache))
        data, ids = open_dataset(folder), np.arange(count)
        images = np.asarray(data.images[:500])
        seeds = [[i] for i in range(len(images))]
        seconds = []
        for corruption in corruptions.CORRUPTIONS:
            begin = time.process_time()
            corruptions.corrupt(images, corruption, 3, seeds)
            seconds.append((time.process_time() - begin) / len(images))
            print(f"{corruption:<14} {1 / seconds[-1]:>7,.0f} images/s at {SIZE} px, one core")
        print(f"{'all alike':<14} {len(seconds) / sum(seconds):>7,.0f} images/s")
        copies: tuple[tuple[Literal["mixed", "full"], np.ndarray], ...]
        copies = (("mixed", ids), ("full", ids[:FULL]))
        for mode, chosen in copies:
            begin = time.perf_counter()
            path = shifted_test.get_or_corrupt(folder, data, chosen, Split(), mode)
            took, rows = time.perf_counter() - begin, len(np.load(path, mmap_mode="r"))
            print(f"{mode:<6} copy of {len(chosen):,} test images: {rows:,} rows, {took:.1f} s")


if __name__ == "__main__":
    main()
