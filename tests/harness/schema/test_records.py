"""Records written by older versions stay readable."""

from __future__ import annotations

import json

from harness.schema.records import Outcome
from tests.harness.conftest import made_outcome


def test_an_older_records_parts_are_its_micro_batches() -> None:
    content = made_outcome().model_dump(mode="json")
    assert not {"parts", "micro_batches"} & content.keys(), "left out at its default"
    older = Outcome.model_validate_json(json.dumps(content | {"parts": 4}))
    assert older.micro_batches == 4
    written = older.model_dump(mode="json")
    assert written["micro_batches"] == 4
    assert "parts" not in written
    assert Outcome.model_validate(written) == older
