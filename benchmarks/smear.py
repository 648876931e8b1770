"""How fast the embedded data set is drawn: images a second on one core.

    taskset -c 0 python benchmarks/smear.py [images]

Processor time, so that a busy machine does not count; pinned, so that it means one core.
"""

from __future__ import annotations

import sys
import time

import cv2

from harness.data.synthetic.smear import MINIMUM, draw


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    cv2.setNumThreads(1)
    draw(MINIMUM)  # the noise is made once; not part of the rate
    rates = []
    for seed in range(3):
        start = time.process_time()
        draw(count, seed)
        rates.append(count / (time.process_time() - start))
    print(
        f"smear: {sorted(rates)[1]:,.0f} images a second (median of 3 x {count} images, one core)"
    )


if __name__ == "__main__":
    main()
