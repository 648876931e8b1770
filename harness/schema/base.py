"""The base of all schema types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field


class FrozenModel(BaseModel):
    """Immutable, strict about unknown fields, with one canonical JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, and without what was cached of the former ones, as its id."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def canonical(self) -> str:
        """The JSON that ids are hashes of: sorted keys, no white space."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def added_field(default: Any, **options: Any) -> Any:
    """A field that came later: left out of the JSON at its default, so that earlier ids stay."""
    return Field(default, exclude_if=lambda value: value == default, **options)
