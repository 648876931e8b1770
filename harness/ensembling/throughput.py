"""The measured throughput of networks: one after the other in a child process, warm, alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from harness.errors import UserError
from harness.execution.devices import Device
from harness.execution.processes import run_task, worker_environment
from harness.schema.base import FrozenModel
from harness.schema.protocol import Protocol
from harness.schema.records import EnsembleRecord, Finished, Rates, Throughput
from harness.schema.run import Backend
from harness.storage.records import Store

COMMAND_MODULE = "harness.ensembling.throughput_worker"


class ThroughputTask(FrozenModel):
    """Input of the child process: what the rates of these networks depend on."""

    recipes: tuple[str, ...]
    image_size: int
    batch: int
    precision: str
    views: int
    device: Device
    xla: bool = False
    """Whether TensorFlow compiles by XLA on a GPU."""

    @classmethod
    def of(
        cls, recipes: tuple[str, ...], protocol: Protocol, device: Device, *, xla: bool = False
    ) -> ThroughputTask:
        return cls(
            recipes=recipes,
            image_size=protocol.image_size,
            batch=protocol.inference_batch,
            precision=protocol.precision,
            views=protocol.test_views,
            device=device,
            xla=xla,
        )


class MeasuredRates(FrozenModel):
    """Of one network all rates, of several ones in turn the throughput alone."""

    rates: Rates
    backend: str
    """Name and version."""


def measure(task: ThroughputTask, environment: Mapping[str, str]) -> MeasuredRates:
    """Images per second through all these networks in turn. Raises UserError.

    ``environment``: of the child process.
    """
    result, reason = run_task(COMMAND_MODULE, task, environment, lambda _: None)
    if reason:
        names = " + ".join(task.recipes)
        raise UserError(f"the throughput of {names} was not measured: {reason}")
    return MeasuredRates.model_validate(result)


def backend_of(result: Finished) -> Backend:
    return cast(Backend, result.environment.backend.partition(" ")[0])


def measure_all(
    store: Store, records: list[EnsembleRecord], device: Device, cache: Path | None = None
) -> None:
    """Store measured throughputs in the records; each set of members is measured once.

    With the backend of the first member, as its own throughput was. ``cache``: folder of compiled
    programs.
    """
    backends = {
        record.run.id: backend_of(record.result)
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
            task = ThroughputTask.of(record.used_recipes, record.run.protocol, device)
            measured[key] = measure(task, environment).rates.throughput
        cost = record.cost.model_copy(update={"throughput": measured[key]})
        store.save(record.model_copy(update={"cost": cost}))
