"""The measured throughput of ensembles: members run one after the other in a child process."""

from __future__ import annotations

from harness.errors import UserError
from harness.execution.devices import Device
from harness.execution.processes import run_task
from harness.schema.base import FrozenModel
from harness.schema.protocol import Protocol
from harness.schema.records import EnsembleRecord, Throughput
from harness.storage.records import Store

COMMAND_MODULE = "harness.ensembling.throughput_worker"


class ThroughputTask(FrozenModel):
    """Input of the child process; image size, batch and precision are the protocol's."""

    recipes: tuple[str, ...]
    protocol: Protocol
    device: str
    device_name: str


def measure(recipes: tuple[str, ...], protocol: Protocol, device: Device) -> Throughput:
    """Images per second through all these networks in turn, warm. Raises UserError."""
    task = ThroughputTask(
        recipes=recipes, protocol=protocol, device=device.id, device_name=device.name
    )
    result, reason = run_task(COMMAND_MODULE, task, device.environment, lambda _: None)
    if reason:
        raise UserError(f"the throughput of {' + '.join(recipes)} was not measured: {reason}")
    return Throughput.model_validate(result)


def measure_all(store: Store, records: list[EnsembleRecord], device: Device) -> None:
    """Store measured throughputs in the records; each set of members is measured once."""
    measured: dict[tuple[frozenset[str], str], Throughput] = {}
    for record in records:
        if record.cost is None:
            continue
        key = (frozenset(record.used_recipes), record.run.protocol.canonical())
        if key not in measured:
            measured[key] = measure(record.used_recipes, record.run.protocol, device)
        cost = record.cost.model_copy(update={"throughput": measured[key]})
        store.save(record.model_copy(update={"cost": cost}))
