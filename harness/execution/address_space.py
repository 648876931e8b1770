"""The address space that the system lets a process have, as ``ulimit -v`` sets it."""

from __future__ import annotations

import math
import os
import resource

from harness.errors import UserError

COMMAND_GB, FRAMEWORK_GB, GB_PER_CORE = 1.3, 3.1, 0.05
"""What numerical libraries and a framework need to load. With less, OpenBLAS and TensorFlow crash,
or ask for memory again without end."""


def limit_gb() -> float:
    """Infinite where there is none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if limit == resource.RLIM_INFINITY else limit / 1e9


def cores() -> int:
    """Processor cores that this process may use.

    Here, since importing NumPy, as ``devices`` does, fails with too little address space.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check(least_gb: float) -> None:
    """Raises UserError where the limit is below this and GB_PER_CORE."""
    limit = limit_gb()
    needed = least_gb + GB_PER_CORE * cores()
    if limit < needed:
        raise UserError(
            f"out of memory: the address space is limited to {limit:.1f} GB and {needed:.1f} GB "
            "are needed; raise the limit (ulimit -v, or the memory of the batch job)"
        )


def limited() -> str:
    """The limit as a likely reason why a library has crashed; empty where there is none."""
    limit = limit_gb()
    if limit == math.inf:
        return ""
    return f"; perhaps out of memory: the address space is limited to {limit:.1f} GB (ulimit -v)"
