"""A run's id is the hash of its canonical JSON, and stays when schema types grow."""

from __future__ import annotations

import json

from harness.schema.base import FrozenModel, added_field
from harness.schema.dataset import Split
from harness.schema.protocol import Protocol
from harness.schema.run import Run, Weights


def test_a_late_field_leaves_the_canonical_json_alone_until_it_is_used() -> None:
    class Grown(FrozenModel):
        early: int = 1
        late: tuple[str, ...] = added_field(())

    class Outer(FrozenModel):
        inner: Grown = Grown()

    assert Outer().canonical() == '{"inner":{"early":1}}'
    written = Outer(inner=Grown(late=("x",))).canonical()
    assert json.loads(written) == {"inner": {"early": 1, "late": ["x"]}}
    assert Outer.model_validate_json(written).inner.late == ("x",)
    assert Outer.model_validate_json(Outer().canonical()) == Outer()


def test_the_id_of_a_known_run_never_changes() -> None:
    run = Run(
        recipe="vgg16",
        weights=Weights(source="random"),
        protocol=Protocol(),
        data="575a84dab96834635d12c1da",
        split=Split(),
    )
    assert run.id == "a7fff999391ae708"
