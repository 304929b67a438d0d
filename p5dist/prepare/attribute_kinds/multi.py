"""Several categories in one text."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from p5dist.prepare.attribute_kinds.kind import AttributeKind
from p5dist.prepare.column_types import Role, kind_of
from p5dist.prepare.values import as_text


class Multi(AttributeKind):
    """Several values: a text split at ``separator``, or the values of a list."""

    kind: str = "multi"
    separator: str = Field(default="|", min_length=1)
    """Text between two values."""

    role: ClassVar[Role] = "labels"

    def split(self, column: pa.Array) -> pa.Array:
        if kind_of(column.type) == "list":
            return column
        return pc.split_pattern(as_text(column), self.separator)
