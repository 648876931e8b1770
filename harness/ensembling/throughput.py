"""The measured throughput of ensembles: members run one after the other in a child process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from harness.errors import UserError
from harness.execution.devices import Device
from harness.execution.processes import run_task, worker_environment
from harness.schema.base import FrozenModel
from harness.schema.protocol import Protocol
from harness.schema.records import EnsembleRecord, Finished, Throughput
from harness.schema.run import Backend
from harness.storage.records import Store

COMMAND_MODULE = "harness.ensembling.throughput_worker"


class ThroughputTask(FrozenModel):
    """Input of the child process; image size, batch and precision are the protocol's."""

    recipes: tuple[str, ...]
    protocol: Protocol
    device: Device


def measure(
    recipes: tuple[str, ...], protocol: Protocol, device: Device, environment: Mapping[str, str]
) -> Throughput:
    """Images per second through all these networks in turn, warm. Raises UserError.

    ``environment``: of the child process.
    """
    task = ThroughputTask(recipes=recipes, protocol=protocol, device=device)
    result, reason = run_task(COMMAND_MODULE, task, environment, lambda _: None)
    if reason:
        raise UserError(f"the throughput of {' + '.join(recipes)} was not measured: {reason}")
    return Throughput.model_validate(result)


def measure_all(
    store: Store, records: list[EnsembleRecord], device: Device, cache: Path | None = None
) -> None:
    """Store measured throughputs in the records; each set of members is measured once.

    With the backend of the first member, as its own throughput was. ``cache``: folder of compiled
    programs.
    """
    backends = {
        record.run.id: cast(Backend, record.result.environment.backend.partition(" ")[0])
        for record in store.records()
        if isinstance(record.result, Finished)
    }
    measured: dict[tuple[frozenset[str], str], Throughput] = {}
    for record in records:
        if record.cost is None:
            continue
        key = (frozenset(record.used_recipes), record.run.protocol.canonical())
        if key not in measured:
            environment = worker_environment(device, backends[next(iter(record.used))], cache)
            measured[key] = measure(record.used_recipes, record.run.protocol, device, environment)
        cost = record.cost.model_copy(update={"throughput": measured[key]})
        store.save(record.model_copy(update={"cost": cost}))
