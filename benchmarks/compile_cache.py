"""What cached programs and compiling ahead spare: one sweep cold, warm and overlapped.

    python benchmarks/compile_cache.py [RECIPE ...]

Needs JAX. Each sweep trains the recipes from scratch for two epochs on a few synthetic images, on
the CPU with one run at a time: without a cached program, with all of them, and without them again
while a second run builds and compiles (``sweep.preparing = 1``). On a machine without idle cores
the last gains little; the seconds of waiting show what overlapped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from harness.schema.records import Finished
from harness.storage.records import Store

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = """
backend = "jax"
[protocol]
image_size = 32
[split.subset]
train = 96
validation = 32
test = 48
[weights]
source = "random"
[sweep]
cpu_slots = 1
preparing = {preparing}
[profile.full.protocol.from_scratch]
epochs = 2
"""
HEADER = (
    f"{'sweep':12}{'wall s':>8}{'build s':>9}{'compile s':>11}{'waiting s':>11}"
    f"{'compiled':>10}{'cached':>8}"
)


def main() -> None:
    recipes = sys.argv[1:] or ["mobilenet", "mobilenetv3large"]
    if find_spec("jax") is None:
        print("compile_cache.py: JAX is not installed")
        return
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        cold = sweep("cold", recipes, Path(folder) / "cache", 0)
        warm = sweep("warm", recipes, Path(folder) / "cache", 0)
        ahead = sweep("overlapped", recipes, Path(folder) / "empty", 1)
    print(f"warm / cold {warm / cold:.2f}, overlapped / cold {ahead / cold:.2f}")


def sweep(name: str, recipes: list[str], cache: Path, preparing: int) -> float:
    """The wall seconds of a sweep; prints what its ledgers say."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "benchmark.toml"
        config.write_text(SETTINGS.format(preparing=preparing))
        command = [
            sys.executable, "-m", "harness.cli", "run", *recipes, "--profile", "full", "--shift",
            "none", "--data", "smear@400", "--config", str(config), "--results", folder,
        ]  # fmt: skip
        environment = {**os.environ, "WBC_BENCH_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": "-1"}
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        results = [record.result for record in Store(Path(folder)).records()]
    finished = [result for result in results if isinstance(result, Finished)]
    ledgers = [result.ledger for result in finished if result.ledger]
    print(
        f"{name:12}{wall:8.1f}{sum(r.timings.build for r in finished):9.1f}"
        f"{sum(r.timings.compile or 0 for r in finished):11.1f}"
        f"{sum(x.waiting_seconds or 0 for x in ledgers):11.1f}"
        f"{sum(x.programs_compiled or 0 for x in ledgers):10}"
        f"{sum(x.programs_cached or 0 for x in ledgers):8}",
        flush=True,
    )
    return wall


if __name__ == "__main__":
    main()
