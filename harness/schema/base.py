"""The base of all schema types, and the bounds of the values in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from zoo.errors import printable as printable

MOST = 2**53
"""The largest whole number that a float and JavaScript hold exactly."""

Text = Annotated[str, AfterValidator(printable)]
Name = Annotated[str, Field(max_length=300), AfterValidator(printable)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0, le=MOST)]
Amount = Annotated[float, Field(ge=0, le=1e18)]
Rate = Annotated[float, Field(gt=0, le=1e18)]
Score = Annotated[float, Field(ge=0, le=1 + 1e-6)]
"""A fraction that was computed, and rounded."""


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

    def with_defaults(self, *names: str) -> Self:
        """A copy with these fields at their defaults: options that have no effect."""
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in names})


def added_field(default: Any, **options: Any) -> Any:
    """A field that came later: left out of the JSON at its default, so that earlier ids stay."""
    return Field(default, exclude_if=lambda value: value == default, **options)
