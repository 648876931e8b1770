"""The GPUs or the CPU to compute on, detected without loading a framework."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """``id`` is ``cpu`` or ``gpu:INDEX``, ``name`` the one in tables."""

    id: str
    name: str
    shared: bool = False
    """Whether several runs may use it at once: then none reserves all of its memory at the start,
    and its energy is not that of one run."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that a worker needs before its framework loads."""
        if self.id == "cpu":
            threads = str(cores())
            return {
                "CUDA_VISIBLE_DEVICES": "-1",
                "JAX_PLATFORMS": "cpu",
                # TensorFlow leaves it off on some processors, where results would differ.
                "TF_ENABLE_ONEDNN_OPTS": "1",
                "TF_NUM_INTRAOP_THREADS": threads,
                "TF_NUM_INTEROP_THREADS": "1",
                "OMP_NUM_THREADS": threads,
            }
        shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # The order of nvidia-smi, whose index this is.
            "CUDA_VISIBLE_DEVICES": self.id.removeprefix("gpu:"),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # PyTorch needs it for deterministic sums.
            **(shared if self.shared else {}),
        }


def visible(environment: Mapping[str, str] | None = None) -> tuple[Device, ...]:
    """The GPUs that may be used, or the CPU where there are none."""
    gpus = _gpus(environment if environment is not None else os.environ)
    return gpus or (Device("cpu", cpu_name()),)


def slots(available: Sequence[Device], cpu_slots: int, per_gpu: int) -> tuple[Device, ...]:
    """One entry for each simultaneous run: every GPU once, then again, up to ``per_gpu`` times."""
    count = cpu_slots if available[0].id == "cpu" else per_gpu
    return tuple(replace(device, shared=count > 1) for device in available) * count


def _gpus(environment: Mapping[str, str]) -> tuple[Device, ...]:
    allowed = environment.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or allowed in ("", "-1"):
        return ()
    query = [program, "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        output = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = []
    for line in output.splitlines():
        index, uuid, name = (field.strip() for field in line.split(",", 2))
        if allowed is None or any(
            _matches(item.strip(), index, uuid) for item in allowed.split(",")
        ):
            gpus.append(Device(f"gpu:{index}", name))
    return tuple(gpus)


def _matches(item: str, index: str, uuid: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES, an index or the start of a UUID, is this GPU."""
    return item == index or (item.startswith("GPU-") and uuid.startswith(item))


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    count = cores()
    return f"{_processor()}, {count} core{'s' if count > 1 else ''}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"
