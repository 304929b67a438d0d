"""A vector that an encoder of texts, images or sounds made."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data.jagged import Bools
from p5dist.prepare.arrays import one_array
from p5dist.prepare.attribute_kinds.kind import AttributeKind, WidthsError
from p5dist.prepare.column_types import Role


class Vector(AttributeKind):
    """A list of numbers, of the same length in all rows, scaled to length 1. A row with null, with
    numbers that are not finite, or with zeros only, has no vector."""

    kind: str = "vector"

    role: ClassVar[Role] = "vector"
    for_models: ClassVar[bool] = False
    is_vector: ClassVar[bool] = True

    def vectors(self, column: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], Bools]:
        lists = one_array(column)
        valid = np.asarray(pc.is_valid(lists))
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
        valid &= lengths > 0
        widths, first = np.unique(lengths[valid], return_index=True)
        if len(widths) > 1:
            row = np.flatnonzero(valid)[first]
            raise WidthsError(
                f"{widths[0]} numbers in row {row[0]}, {widths[1]} numbers in row {row[1]}"
            )
        width = int(widths[0]) if len(widths) else 0
        found = np.zeros((len(lists), width), dtype=np.float32)
        if not width:
            return found, valid
        numbers = pc.list_flatten(lists.filter(pa.array(valid))).cast(pa.float64())
        rows = np.asarray(pc.fill_null(numbers, np.nan)).reshape(-1, width)
        length = np.linalg.norm(rows, axis=1)
        usable = np.isfinite(length) & (length > 0)
        rows = rows[usable] / length[usable, None]
        valid[np.flatnonzero(valid)[~usable]] = False
        found[valid] = rows
        return found, valid
