"""How long an audit takes: the whole command, and a clean run's share of it afterwards.

    python benchmarks/audit.py [SOURCE]

``smear`` unless SOURCE says otherwise, or ``training_set.npz`` of the folder that
WBC_BENCH_REAL_DATA names. First with an empty cache: decoding, the network in its child process,
copies, the page with its maps. Then again, with what the first has kept. Processor time counts
all cores and children; on a quiet machine of two cores the wall time is a little over half of it.
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
    with tempfile.TemporaryDirectory() as folder:
        source = sys.argv[1] if len(sys.argv) > 1 else given(Path(folder))
        where = Path(folder)
        environment = {**os.environ, "WBC_BENCH_CACHE": str(where / "cache")}
        audit = [sys.executable, "-m", "harness.cli", "data", "audit", source]
        for when in ("the first time", "again"):
            command = [*audit, "--out", str(where / "page")]
            wall, processor = seconds(command, environment)
            print(
                f"audit of {Path(source).name}, {when:14} {wall:6.1f} s, "
                f"{processor:6.1f} s of processor"
            )
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        print(told.stdout.splitlines()[-2])


def given(folder: Path) -> str:
    """The challenge's file, unpacked, where there is one."""
    held = os.environ.get("WBC_BENCH_REAL_DATA")
    if not held:
        return "smear"
    script = Path(held) / "make_real_data.py"
    subprocess.run([sys.executable, str(script), str(folder / "real")], check=True)
    return str(folder / "real" / "training_set.npz")


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds of a command, and processor seconds of it and its children."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
