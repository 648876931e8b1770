"""The base of all schema types."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class FrozenModel(BaseModel):
    """Immutable, strict about unknown fields, with one canonical JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = ()
    """Fields added after the first version, so that ids of earlier runs stay."""

    @model_serializer(mode="wrap")
    def _omit_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        for name in self.OMITTED_AT_DEFAULT:
            if getattr(self, name) == type(self).model_fields[name].get_default():
                content.pop(name, None)
        return content

    def canonical(self) -> str:
        """The JSON that ids are hashes of: sorted keys, no white space."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
