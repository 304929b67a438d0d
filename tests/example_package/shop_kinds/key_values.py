"""A source format: one line ``key=value|key=value`` per record."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from p5dist.prepare.formats.lines import LineFormat, whole_lines
from p5dist.prepare.layout import SourceFile

_FIELD = r"[^|=]+=[^|]*"
_LINE = rf"^{_FIELD}(?:\|{_FIELD})*$"


class KeyValues(LineFormat):
    """Keys in any order; a key that a line does not have is an empty value. A line with a field
    that is no ``key=value`` is malformed."""

    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        fields = re.split(r"[|\r\n]+", whole_lines(head).decode(errors="replace"))
        return tuple(dict.fromkeys(field.partition("=")[0] for field in fields if "=" in field))

    def parse(self, data: bytes, file: SourceFile) -> tuple[pa.Table, int]:
        text = pa.array([data], pa.large_binary()).cast(pa.large_string())
        lines = pc.ascii_trim(pc.list_flatten(pc.split_pattern(text, "\n")), "\r")
        lines = lines.filter(pc.not_equal(lines, ""))
        good = lines.filter(pc.match_substring_regex(lines, _LINE))
        table = {name: _values(good, name) for name in file.wanted(self.layout)}
        return pa.table(table), len(lines) - len(good)


def _values(lines: pa.LargeStringArray, key: str) -> pa.StringArray:
    """[n] the value of a key in each line, null where the line does not have it."""
    found = pc.extract_regex(lines, rf"(?:^|\|){re.escape(key)}=(?P<value>[^|]*)")
    return pc.struct_field(found, "value").cast(pa.string())
