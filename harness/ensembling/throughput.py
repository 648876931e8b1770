"""How fast an ensemble is: its members one after the other in one child process, timed."""

from __future__ import annotations

from harness.errors import UserError
from harness.execution.devices import Device
from harness.execution.processes import run_task
from harness.schema.base import FrozenModel
from harness.schema.protocol import Protocol
from harness.schema.records import EnsembleRecord, Throughput
from harness.storage.records import Store

COMMAND_MODULE = "harness.ensembling.throughput_worker"


class RelayJob(FrozenModel):
    """What the child is told: the members, and the protocol's image size, batch and precision."""

    recipes: tuple[str, ...]
    protocol: Protocol
    device: str
    device_name: str


def measure(recipes: tuple[str, ...], protocol: Protocol, device: Device) -> Throughput:
    """Images a second through all these networks, one after the other, warm. UserError."""
    job = RelayJob(recipes=recipes, protocol=protocol, device=device.id, device_name=device.name)
    outcome, reason = run_task(COMMAND_MODULE, job, device.environment, lambda _: None)
    if reason:
        raise UserError(f"the throughput of {' + '.join(recipes)} was not measured: {reason}")
    return Throughput.model_validate(outcome)


def measure_all(store: Store, records: list[EnsembleRecord], device: Device) -> None:
    """Put measured rates into the records of ensembles; members that recur are timed once."""
    known: dict[tuple[frozenset[str], str], Throughput] = {}
    for record in records:
        if record.cost is None:
            continue
        key = (frozenset(record.kept), record.run.protocol.canonical())
        if key not in known:
            known[key] = measure(record.kept, record.run.protocol, device)
        cost = record.cost.model_copy(update={"throughput": known[key]})
        store.save(record.model_copy(update={"cost": cost}))
