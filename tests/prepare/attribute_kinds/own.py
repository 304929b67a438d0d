"""Attribute kinds of a user."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PositiveInt

from p5dist.prepare.attribute_kinds.kind import AttributeKind


class Prefix(AttributeKind):
    """The first characters of a code."""

    length: PositiveInt

    for_context: ClassVar[bool] = True

    def label(self, values: pa.Array) -> pa.StringArray:
        return pc.utf8_slice_codeunits(super().label(values), 0, self.length)


class Ancestors(AttributeKind):
    """``home > kitchen > knife`` is home, home > kitchen, and home > kitchen > knife."""

    def split(self, column: pa.Array) -> pa.Array:
        paths = [[] if path is None else path.split(" > ") for path in column.to_pylist()]
        parts = [[" > ".join(path[: n + 1]) for n in range(len(path))] for path in paths]
        return pa.array(parts, pa.list_(pa.string()))
