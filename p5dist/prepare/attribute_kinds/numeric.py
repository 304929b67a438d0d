"""A number, as the bin that holds it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from p5dist.data.jagged import Bools
from p5dist.prepare.attribute_kinds.kind import AttributeKind, without
from p5dist.prepare.column_types import Role
from p5dist.prepare.values import as_text, floats, is_numeric, numbers


class Numeric(AttributeKind):
    """A number x becomes the bin (low, high] that holds it; other text counts as no value."""

    kind: str = "numeric"
    bins: tuple[float, ...]
    """Upper edges of all bins but the last, rising."""

    role: ClassVar[Role] = "number"
    for_context: ClassVar[bool] = True

    @field_validator("bins")
    @classmethod
    def _rising(cls, bins: tuple[float, ...]) -> tuple[float, ...]:
        if not all(map(math.isfinite, bins)):
            raise ValueError("bins must be finite: the first and the last bin are open anyway")
        if not all(low < high for low, high in pairwise(bins)):
            raise ValueError("bins must rise")
        return bins

    def label(self, values: pa.Array) -> pa.StringArray:
        none: Bools
        if is_numeric(values.type):
            number = floats(values)
            none = np.isnan(number)
        else:
            number, none = numbers(pc.utf8_trim_whitespace(as_text(values)))
        index = np.searchsorted(np.array(self.bins), number, side="left")
        edges = ["-inf", *(f"{edge:g}" for edge in self.bins), "inf"]
        names = pa.array([f"({a}, {b}]" for a, b in pairwise(edges)])
        return without(names.take(pa.array(index)), none)

    def context(self, column: pa.ChunkedArray) -> pa.StringArray:
        if is_numeric(column.type):
            return pc.fill_null(self.label(column.combine_chunks()), "")
        return super().context(column)
