"""The child process that trains one trial of a search: ``python -m harness.training.trial_worker``.

A Job comes on stdin; events and the TrialOutcome go to stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness.execution.child import Emit, serve, wait_reporter
from harness.schema.events import PhaseEvent


def _execute(job_text: str, emit: Emit) -> dict[str, Any]:
    from harness.execution import compile_cache
    from harness.execution.lock_holders import Waits
    from harness.execution.locks import DeviceLock, artefacts_lock
    from harness.schema.run import Job

    job = Job.model_validate_json(job_text)
    waits = Waits(wait_reporter(emit))
    device_lock = DeviceLock(job.device, own=job.own_device, waits=waits)
    compile_cache.enter_folder()
    with artefacts_lock(Path(job.output), waits):
        emit(PhaseEvent(name="start", steps=1))
        with device_lock.preparing():  # Loading a framework keeps a core busy for seconds.
            import keras  # noqa: F401

            from harness.training.job import execute_trial
        return execute_trial(job, device_lock, emit).model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(serve(_execute))
