"""Quoted values of delimited text: which lines belong together, and which lines are malformed.

The grammar is RFC 4180. A value that begins with a quote ends at a quote that a delimiter or a line
end follows; two quotes inside stand for one; delimiters and line ends inside belong to the value. A
quote within a value that does not begin with one is a character as any other.

A line with a stray quote, that is one whose quoted value does not end by these rules, is malformed
by itself: the following lines are read as if it were not there. The same holds where a value over
several lines would give a record with another number of fields than columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from p5dist.data.jagged import Bools, Ints

LONGEST = 1 << 20
"""Bytes within which a quoted value over several lines must end."""

_LINE_END, _RETURN = ord("\n"), ord("\r")


@dataclass(frozen=True)
class Checked:
    """Lines whose quoted values end."""

    data: bytes
    over_lines: bool
    """Whether a value has line ends."""
    malformed: list[bytes]
    """The lines that were taken out."""
    rest: bytes
    """Begins with a line whose quoted value may end in the lines that follow the data."""


@dataclass(frozen=True)
class Quotes:
    """Checks the quotes of a table.

    Args:
        delimiter, quote: a character each.
        columns: fields of a record.
    """

    delimiter: str
    quote: str
    columns: int
    _record: re.Pattern[bytes] = field(init=False)
    _open: re.Pattern[bytes] = field(init=False)
    _field: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        d, q = re.escape(self.delimiter.encode()), re.escape(self.quote.encode())
        opened = b"%b[^%b]*(?:%b%b[^%b]*)*" % (q, q, q, q, q)
        value = b"(?:%b%b|(?!%b)[^%b\\n]*?)" % (opened, q, q, d)
        end = b"\\r?(?:\\n|\\Z)"
        for name, pattern in {
            "_record": b"%b(?:%b%b)*%b" % (value, d, value, end),
            "_open": b"(?:%b%b)*%b\\Z" % (value, d, opened),
            "_field": b"%b(%b|%b)" % (value, d, end),
        }.items():
            object.__setattr__(self, name, re.compile(pattern))

    def check(self, data: bytes, *, last: bool) -> Checked:
        """Check whole lines.

        Args:
            last: no lines follow in the file.
        """
        doubtful = self._doubtful_lines(data)
        kept, malformed, done, over_lines = [], list[bytes](), 0, False
        for start, stop in doubtful:
            if start < done:
                continue  # inside a value that began in a line above
            end = self._record_end(data, start)
            if end is None and not last and self._is_open(data, start):
                kept.append(data[done:start])
                return Checked(b"".join(kept), over_lines, malformed, data[start:])
            if end is None:
                malformed.append(data[start:stop])
                kept.append(data[done:start])
                done = stop
            elif end > stop:
                over_lines = True
                kept.append(data[done:end])
                done = end
        kept.append(data[done:])
        return Checked(b"".join(kept), over_lines, malformed, b"")

    def _doubtful_lines(self, data: bytes) -> list[tuple[int, int]]:
        """Start and end of the lines with a quote that are not obviously right: within each other
        line with quotes, the first, third, … quote begins a value or follows another quote, and the
        second, fourth, … ends a value or precedes another quote."""
        byte = np.frombuffer(data, np.uint8)
        quote: Ints = np.flatnonzero(byte == ord(self.quote))
        if not len(quote):
            return []
        line_end: Ints = np.flatnonzero(byte == _LINE_END)
        # Of each line: quotes before it. A line has an even number, or is doubtful.
        before = np.concatenate([[0], np.searchsorted(quote, line_end), [len(quote)]])
        odd_line = np.diff(before) % 2 == 1
        padded = np.frombuffer(b"\n" + data + b"\n", np.uint8)
        # Places within the line: 0, 1, 0, 1, … where all lines above have even numbers.
        second = (np.arange(len(quote)) & 1).astype(np.bool_)
        if odd_line.any():
            second ^= np.repeat(before[:-1] % 2 == 1, np.diff(before))
        next_to = np.append(quote[1:] - quote[:-1] == 1, False)
        wrong = np.where(
            second,
            ~(self._is_edge(padded[quote + 2], returns=True) | next_to),
            ~(self._is_edge(padded[quote]) | np.append(False, next_to[:-1])),
        )
        number = np.searchsorted(line_end, quote[wrong])
        bad = np.union1d(number, np.flatnonzero(odd_line))
        starts, stops = np.append(0, line_end + 1), np.append(line_end + 1, len(data))
        return list(zip(starts[bad].tolist(), stops[bad].tolist(), strict=True))

    def _is_edge(self, byte: npt.NDArray[np.uint8], *, returns: bool = False) -> Bools:
        edge: Bools = (byte == ord(self.delimiter)) | (byte == _LINE_END)
        return edge | (byte == _RETURN) if returns else edge

    def _record_end(self, data: bytes, start: int) -> int | None:
        """Where the record ends that begins at ``start``; None if there is no good one."""
        limit = min(start + LONGEST, len(data))
        found = self._record.match(data, start, limit)
        if found is None or (found.end() == limit < len(data)):
            return None
        end = found.end()
        over_lines = data.find(b"\n", start, end - 1) >= 0
        return None if over_lines and self._fields(data, start, end) != self.columns else end

    def _fields(self, data: bytes, start: int, end: int) -> int:
        count = 0
        while start < end:
            found = self._field.match(data, start, end)
            assert found is not None, "a record consists of fields"
            count += 1
            start = found.end()
            if start == end and found[1] == self.delimiter.encode():
                count += 1  # an empty last field without a line end
        return count

    def _is_open(self, data: bytes, start: int) -> bool:
        """Whether the record at ``start`` may end in the lines that follow the data."""
        return len(data) - start < LONGEST and self._open.match(data, start) is not None
