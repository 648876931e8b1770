"""What ``measure`` does: time finished networks again, alone on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.commands.settings import cache_folder
from harness.ensembling.builder import renew_costs
from harness.ensembling.throughput import ThroughputTask, backend_of
from harness.ensembling.throughput import measure as measure_rates
from harness.errors import UserError
from harness.execution import devices
from harness.execution.devices import Device
from harness.execution.processes import worker_environment
from harness.schema.records import Finished, RunRecord
from harness.storage.records import Store
from zoo.registry import find


def measure(recipes: Sequence[str], results: Path) -> Iterator[str]:
    """Replace the rates of finished networks by those of now; yields a line for each measurement.

    Without names, of all networks whose rate others disturbed. Runs that differ in nothing that a
    rate depends on are measured once. A rate stays where it is of another device or version, and
    where this measurement is disturbed too. Raises UserError.
    """
    store = Store(results)
    try:
        for (task, backend), records in _tasks(store, recipes).items():
            title = f"{find(task.recipes[0]).title} at {task.image_size} px"
            yield f"{title}: {_replace(store, task, backend, records)}"
    finally:  # Also of an interrupted command: the rates that it has replaced count.
        renew_costs(store)


def _tasks(
    store: Store, recipes: Sequence[str]
) -> dict[tuple[ThroughputTask, str], list[RunRecord]]:
    """With name and version of the backend; a device that is not here has no id."""
    finished = [record for record in store.records() if record.finished]
    names = {find(name).name for name in recipes}
    for name in sorted(names - {record.run.recipe for record in finished}):
        raise UserError(f"{store.root}: no finished run of {name}; 'wbc-bench run {name}'")
    cpu = Device("cpu", devices.cpu_name())
    here = {device.name: device for device in (cpu, *devices.visible())}
    tasks: dict[tuple[ThroughputTask, str], list[RunRecord]] = defaultdict(list)
    for record in finished:
        recipe, result = record.run.recipe, _finished(record)
        rates = result.cost.throughput
        if recipe in names or not (names or rates.exclusive):
            device = here.get(rates.device, Device("", rates.device))
            xla = bool(result.ledger and result.ledger.xla)
            task = ThroughputTask.of((recipe,), record.run.protocol, device, xla=xla)
            tasks[task, result.environment.backend].append(record)
    return tasks


def _replace(store: Store, task: ThroughputTask, backend: str, records: list[RunRecord]) -> str:
    """Measure, and save it in the records; what came of it, in words."""
    if not task.device.id:
        return f"kept, {task.device.name} is not here"
    name = backend_of(_finished(records[0]))
    environment = worker_environment(task.device, name, cache_folder() / "compiled")
    measured = measure_rates(task, environment)
    if measured.backend != backend:
        return f"kept, it was measured with {backend}, and here is {measured.backend}"
    if not measured.rates.throughput.exclusive:
        return "kept, other programs used the device again"
    before = _finished(records[0]).cost.throughput.median
    for record in records:
        result = _finished(record)
        cost = result.cost.model_copy(update=dict(measured.rates))
        updated = result.model_copy(update={"cost": cost})
        store.save(record.model_copy(update={"result": updated}))
    return f"{before:,.0f} images/s before, {measured.rates.throughput.median:,.0f} now"


def _finished(record: RunRecord) -> Finished:
    assert isinstance(record.result, Finished)
    return record.result
