"""The GPUs or the CPU to compute on, detected without loading a framework."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.execution.address_space import cores as cores
from harness.schema.run import Device as Device

MOST_PREPARING = 8
"""Runs on each GPU that build and compile while others train."""
PREPARING_GB = 4.0
"""Memory that such a run takes at most, on the host and on the GPU."""


def environment(device: Device) -> dict[str, str]:
    """Environment variables that a worker needs before its framework loads."""
    if device.id == "cpu":
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
        "CUDA_VISIBLE_DEVICES": device.id.removeprefix("gpu:"),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # PyTorch needs it for deterministic sums.
        **(shared if device.shared or device.preparing else {}),
    }


def visible(environment: Mapping[str, str] | None = None) -> tuple[Device, ...]:
    """The GPUs that may be used, or the CPU where there are none."""
    gpus = _gpus(environment if environment is not None else os.environ)
    return gpus or (Device("cpu", cpu_name()),)


def slots(
    available: Sequence[Device], cpu_slots: int, per_gpu: int, preparing: int | None = None
) -> tuple[Device, ...]:
    """One entry for each simultaneous run: every device once, then again.

    ``preparing``: runs on each device that build and compile while others train; None: as many as
    the machine has room for besides its GPUs, none on a CPU.
    """
    on_cpu = available[0].id == "cpu"
    training = cpu_slots if on_cpu else per_gpu
    if preparing is None:
        preparing = 0 if on_cpu else _most_preparing(available)
    turns = training if preparing or not on_cpu else 0
    one = [
        replace(device, shared=training > 1, turns=turns, preparing=preparing > 0)
        for device in available
    ]
    return tuple(one) * (training + preparing)


def _most_preparing(gpus: Sequence[Device]) -> int:
    """Runs to prepare for each GPU: one core and PREPARING_GB of free memory for each.

    On a GPU they hold their weights; half of its memory is left to the run that trains.
    """
    host = min(cores() - 1, int(free_memory_gb() / PREPARING_GB)) // len(gpus)
    memory = min(gpu.memory_gb for gpu in gpus) or PREPARING_GB
    return max(0, min(host, MOST_PREPARING, int(memory / 2 / PREPARING_GB)))


def free_memory_gb() -> float:
    """Memory of this machine that new processes may take, GB; PREPARING_GB where unknown."""
    kibibytes = proc_field("meminfo", "MemAvailable")
    return int(kibibytes.split()[0]) * 1024 / 1e9 if kibibytes else PREPARING_GB


def _gpus(environment: Mapping[str, str]) -> tuple[Device, ...]:
    allowed = environment.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or allowed in ("", "-1"):
        return ()
    query = [program, "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = []
    for line in output.splitlines():
        index, uuid, memory, name = (field.strip() for field in line.split(",", 3))
        if allowed is None or any(
            _matches(item.strip(), index, uuid) for item in allowed.split(",")
        ):
            gigabytes = float(memory) * 1024**2 / 1e9 if memory.isdigit() else 0.0
            gpus.append(Device(f"gpu:{index}", name, memory_gb=gigabytes))
    return tuple(gpus)


def _matches(item: str, index: str, uuid: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES, an index or the start of a UUID, is this GPU."""
    return item == index or (item.startswith("GPU-") and uuid.startswith(item))


def cpu_name() -> str:
    count = cores()
    return f"{_processor()}, {count} core{'s' if count > 1 else ''}"


def _processor() -> str:
    return (
        proc_field("cpuinfo", "model name") or platform.processor() or platform.machine() or "CPU"
    )


def cpu_features() -> str:
    """The processor and its instruction sets: equal ones run the same compiled programs."""
    sets = proc_field("cpuinfo", "flags") or proc_field("cpuinfo", "Features")
    return f"{platform.machine()} {_processor()} {sets}"


def proc_field(file: str, field: str) -> str:
    """What a file of /proc says of a field, in its first line about it; empty where it does not."""
    with suppress(OSError):
        for line in Path("/proc", file).read_text(errors="replace").splitlines():
            if line.startswith(field):
                return line.removeprefix(field).strip(" \t:")
    return ""
