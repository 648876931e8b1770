"""What ``ensemble`` does: combine finished runs, or train one joint network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.commands.resolve import Request
from harness.commands.run import run
from harness.commands.settings import DataOptions, cache_folder
from harness.ensembling import builder, throughput
from harness.ensembling.builder import FittedEnsembles
from harness.ensembling.members import EnsembleMembers, group_members
from harness.errors import UserError
from harness.execution import devices
from harness.reporting.provenance import common_heading
from harness.storage.records import Store
from zoo.registry import find


def combine(
    members: Sequence[str], rules: Sequence[str], results: Path, *, search: bool, measure: bool
) -> Iterator[tuple[str, FittedEnsembles]]:
    """Fit every rule on each group of runs that these members form; yields group by group.

    With the board of each in words, which is empty where there is only one group.
    ``search``: of all finished networks, where no members are named. ``measure``: time the
    members too. Raises UserError.
    """
    if not (members or search):
        raise UserError("name two or more networks, or say --search for the best of all")
    chosen, store = builder.resolve_rules(rules, search=search), Store(results)
    groups = group_members(store, members)
    for group in groups:
        fitted = builder.fit_ensembles(group, chosen)
        if measure:
            cache, (device, *_) = cache_folder() / "compiled", devices.visible()
            throughput.measure_all(store, list(fitted.records), device, cache)
        yield (_board_in_words(group) if len(groups) > 1 else ""), fitted


def _board_in_words(group: EnsembleMembers) -> str:
    first, run = group.records[0], group.records[0].run
    board = common_heading(first.data.name, f"{first.profile} profile", run.protocol)
    return f"{board}; {run.protocol.precision}; seed {run.seed}"


def train_joint(members: Sequence[str], options: DataOptions, results: Path) -> int:
    """Train one network that concatenates the members' features, as ``run A+B`` does."""
    joint = find("+".join(members)) if members else None
    if joint is None or not joint.branches:
        raise UserError("a joint network needs at least two different branches")
    return run(Request(**vars(options), recipes=(joint.name,), results=results))
