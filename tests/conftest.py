"""What several test files share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Small matrices, and as many processes as cores: further threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A busy machine is no reason to fail: tests never assert times.
# Where a change is judged the same examples are tried each time; elsewhere always new ones.
settings.register_profile(
    "unhurried",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="WBC_BENCH_SAME_EXAMPLES" in os.environ,
)
settings.load_profile("unhurried")

REAL = "WBC_BENCH_REAL_DATA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none of them is left to one process at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real blood cells as training_set.npz, bloodmnist_64.npz and folder/.

    The variable WBC_BENCH_REAL_DATA names a folder with ``make_real_data.py``, which unpacks
    them; without it the tests that ask for real cells are skipped.
    """
    held = os.environ.get(REAL)
    if not held:
        pytest.skip(f"{REAL} is not set")
    folder = tmp_path_factory.mktemp("real")
    script = Path(held) / "make_real_data.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder
