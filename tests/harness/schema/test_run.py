"""A run's id is the hash of its canonical JSON, and stays what it was when nouns grow."""

from __future__ import annotations

import json
from typing import ClassVar

from harness.schema.base import FrozenModel
from harness.schema.dataset import Split
from harness.schema.protocol import Protocol
from harness.schema.run import Run, Weights


def test_a_late_field_leaves_the_canonical_json_alone_until_it_is_used() -> None:
    class Grown(FrozenModel):
        OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = ("late",)
        early: int = 1
        late: tuple[str, ...] = ()

    class Outer(FrozenModel):
        inner: Grown = Grown()

    assert Outer().canonical() == '{"inner":{"early":1}}'
    told = Outer(inner=Grown(late=("x",))).canonical()
    assert json.loads(told) == {"inner": {"early": 1, "late": ["x"]}}
    assert Outer.model_validate_json(told).inner.late == ("x",)
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
