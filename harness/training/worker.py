"""The child process that executes one Run: ``python -m harness.training.worker``.

The Job is one line of JSON on stdin; events and the Outcome (of a trial the TrialOutcome) are lines
of JSON on stdout. What libraries print goes to the log. The process ends when its stdin closes,
with its parent.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from harness.execution.child import Emit, serve, wait_reporter
from harness.schema.events import PhaseEvent

START = time.perf_counter()


def main() -> int:
    return serve(_execute)


def _execute(job_text: str, emit: Emit) -> dict[str, Any]:
    from harness.execution.energy import EnergyMeter
    from harness.execution.lock_holders import Waits
    from harness.execution.locks import DeviceLock, DeviceTurn, artefacts_lock
    from harness.execution.monitor import ResourceMonitor
    from harness.schema.run import Job

    job = Job.model_validate_json(job_text)
    waits = Waits(wait_reporter(emit))
    turn = DeviceTurn(job.device.id, job.device.turns, job.order)
    device_lock = DeviceLock(job.device.id, own=job.device.exclusive, turn=turn, waits=waits)
    with (
        artefacts_lock(Path(job.output), waits),
        ResourceMonitor(EnergyMeter.of_device(job.device.id), emit) as monitor,
    ):
        emit(PhaseEvent(name="start", steps=1))
        with device_lock.preparing():  # Loading a framework keeps a core busy for seconds.
            import keras  # noqa: F401

            from harness.training.job import execute, execute_trial
        if job.trial:
            return execute_trial(job, device_lock, emit).model_dump(mode="json")
        return execute(job, device_lock, monitor, emit, START).model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(main())
