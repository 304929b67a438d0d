"""Sequences: a line of text a user."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data import columns as c
from p5dist.errors import DataError
from p5dist.prepare.formats.lines import LineFormat, whole_lines
from p5dist.prepare.layout import SourceFile


class Sequences(LineFormat):
    """``user item item …`` in the order of time, separated by blanks. A user without an item is
    malformed."""

    optional_columns = ()
    in_order_of_time = False
    describes = False

    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        if not any(len(line.split()) > 1 for line in whole_lines(head).split(b"\n")):
            raise DataError(
                "no line has a user and an item", where=url, value=head[:200],
                rule="user item item …, separated by blanks",
                fix=f"correct {self.layout.section}.format",
            )  # fmt: skip
        return tuple(self.layout.columns.values())

    def parse(self, data: bytes, file: SourceFile) -> tuple[pa.Table, int]:
        text = pa.array([data], pa.large_binary()).cast(pa.large_string())
        lines = pc.ascii_trim_whitespace(pc.list_flatten(pc.split_pattern(text, "\n")))
        lines = lines.filter(pc.not_equal(lines, ""))
        words = pc.ascii_split_whitespace(lines)
        length = np.asarray(pc.list_value_length(words)).astype(np.int64)
        flat, first = pc.list_flatten(words), np.cumsum(length) - length
        is_item = np.ones(len(flat), np.bool_)
        is_item[first] = False
        user = flat.take(pa.array(np.repeat(first, length - 1)))
        columns = [user, flat.filter(pa.array(is_item))]
        names = [self.layout.columns[c.USER], self.layout.columns[c.ITEM]]
        table = pa.table([column.cast(pa.string()) for column in columns], names)
        lonely = np.flatnonzero(length < 2)
        if len(lonely):
            self.note_malformed(lines[lonely[0]].as_py())
        return table, len(lonely)
