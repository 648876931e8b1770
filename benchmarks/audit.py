"""How long an audit takes: the whole command, first with an empty cache, then again.

    python benchmarks/audit.py [SOURCE]

``smear`` unless SOURCE says otherwise, or ``training_set.npz`` of the folder that
WBC_BENCH_REAL_DATA names. The first time includes decoding, the network in its child process,
near-duplicates, and the page with its maps. Processor time counts all cores and child processes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = sys.argv[1] if len(sys.argv) > 1 else default_source(folder)
        environment = os.environ | {"WBC_BENCH_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "harness.cli", "data", "audit", source]
        command += ["--out", str(folder / "page")]
        for when in ("the first time", "again"):
            wall, processor, output = run(command, environment)
            print(
                f"audit of {Path(source).name}, {when:14} {wall:6.1f} s, "
                f"{processor:6.1f} s of processor"
            )
        print(output.splitlines()[-2])


def default_source(folder: Path) -> str:
    """The challenge's file, rebuilt, where its parts are at hand."""
    real_data = os.environ.get("WBC_BENCH_REAL_DATA")
    if not real_data:
        return "smear"
    script = Path(real_data) / "make_real_data.py"
    subprocess.run([sys.executable, str(script), str(folder / "real")], check=True)
    return str(folder / "real" / "training_set.npz")


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Wall seconds of a command, processor seconds of it and its children, and its output."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, processor, process.stdout


if __name__ == "__main__":
    main()
