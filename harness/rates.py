"""How fast an ensemble is: its members one after the other in one child process, timed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from harness import launch
from harness.devices import Device
from harness.errors import UserError
from harness.nouns import Noun, Protocol, Throughput
from harness.records import EnsembleRecord
from harness.store import Store

COMMAND_MODULE = "harness.relay"


class RelayJob(Noun):
    """What the child is told: the members, and the protocol's image size, batch and precision."""

    recipes: tuple[str, ...]
    protocol: Protocol
    device: str
    device_name: str


def measure(recipes: tuple[str, ...], protocol: Protocol, device: Device) -> Throughput:
    """Images a second through all these networks, one after the other, warm. UserError."""
    job = RelayJob(
        recipes=recipes, protocol=protocol, device=device.id, device_name=device.name
    )  # fmt: skip
    launcher = launch.WorkerProcess(command=(sys.executable, "-m", COMMAND_MODULE))
    with tempfile.TemporaryDirectory() as folder:
        try:
            log = Path(folder) / "log.txt"
            heard = launcher.hear(job, log, device.environment, lambda _: None)
        except BaseException:
            launcher.stop()
            raise
    last = heard.last
    if last.get("event") != "done":
        reason = last["reason"] if last.get("event") == "failed" else launch.died(heard.code)
        raise UserError(f"the throughput of {' + '.join(recipes)} was not measured: {reason}")
    return Throughput.model_validate(last["outcome"])


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
