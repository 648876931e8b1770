"""What there is to compute on, found without loading a framework."""

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
    """``id`` is ``cpu`` or ``gpu:INDEX``; ``name`` is what tables call it."""

    id: str
    name: str
    shared: bool = False
    """Whether several runs may be on it: then none takes all of its memory at the start, and its
    energy is nobody's own."""

    @property
    def environment(self) -> dict[str, str]:
        """What a worker's environment must say before its framework loads."""
        if self.id == "cpu":
            threads = str(cores())
            return {
                "CUDA_VISIBLE_DEVICES": "-1",
                "JAX_PLATFORMS": "cpu",
                # Set, so that a run computes alike on processors where TensorFlow leaves it off.
                "TF_ENABLE_ONEDNN_OPTS": "1",
                "TF_NUM_INTRAOP_THREADS": threads,
                "TF_NUM_INTEROP_THREADS": "1",
                "OMP_NUM_THREADS": threads,
            }
        shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # As nvidia-smi counts, whose index this is.
            "CUDA_VISIBLE_DEVICES": self.id.removeprefix("gpu:"),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # PyTorch's condition for the same sums twice.
            **(shared if self.shared else {}),
        }


def visible(environment: Mapping[str, str] | None = None) -> tuple[Device, ...]:
    """The GPUs that may be used, or the CPU where there are none."""
    gpus = _gpus(environment if environment is not None else os.environ)
    return gpus or (Device("cpu", cpu_name()),)


def slots(at_hand: Sequence[Device], cpu_slots: int, per_gpu: int) -> tuple[Device, ...]:
    """One entry a run at a time: every GPU once, then again, up to ``per_gpu`` times."""
    if at_hand[0].id == "cpu":
        return (replace(at_hand[0], shared=cpu_slots > 1),) * cpu_slots
    return tuple(replace(device, shared=per_gpu > 1) for device in at_hand) * per_gpu


def _gpus(environment: Mapping[str, str]) -> tuple[Device, ...]:
    allowed = environment.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or allowed in ("", "-1"):
        return ()
    query = [program, "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = []
    for line in answer.stdout.splitlines():
        index, uuid, name = (field.strip() for field in line.split(",", 2))
        if allowed is None or any(_means(item.strip(), index, uuid) for item in allowed.split(",")):
            gpus.append(Device(f"gpu:{index}", name))
    return tuple(gpus)


def _means(item: str, index: str, uuid: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES, a number or the begin of a UUID, is this GPU."""
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
