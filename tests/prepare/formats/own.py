"""Source formats of a user, each as short as possible."""

from __future__ import annotations

from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass

import pyarrow as pa

from p5dist.prepare.formats.delimited import Delimited
from p5dist.prepare.formats.format import SourceFormat
from p5dist.prepare.formats.lines import LineFormat
from p5dist.prepare.layout import FileRange, SourceFile
from p5dist.storage import open_filesystem


class Ini(SourceFormat):
    """``[user]``, and below it a line ``item = time`` an interaction."""

    optional_columns = ("timestamp",)
    describes = False

    def columns(self, url: str) -> tuple[str, ...]:
        return ("user", "item", "timestamp")

    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        fs, path = open_filesystem(part.file.url)
        text = ConfigParser()
        with fs.open_input_stream(path) as stream:
            text.read_string(stream.read().decode())
        rows = [(user, *line) for user in text.sections() for line in text.items(user)]
        columns = zip(*rows, strict=True)
        yield pa.table(dict(zip(("user", "item", "timestamp"), map(list, columns), strict=True))), 0


class FixedWidth(LineFormat):
    """Four characters of user, four of item, twelve of time."""

    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        return ("user", "item", "timestamp")

    def parse(self, data: bytes, file: SourceFile) -> tuple[pa.Table, int]:
        lines = [line for line in data.decode().split("\n") if line.strip()]
        good = [line for line in lines if len(line) == 20]
        fields = {"user": (0, 4), "item": (4, 8), "timestamp": (8, 20)}
        table = {name: [line[a:b].strip() for line in good] for name, (a, b) in fields.items()}
        return pa.table(table), len(lines) - len(good)


class Semicolons(Delimited):
    """As spreadsheets write it where the comma is the decimal point."""

    delimiter, quoted = ";", True


class Unfinished(SourceFormat):
    """Cannot read."""

    def columns(self, url: str) -> tuple[str, ...]:
        return ("user", "item")


class Forgetful(Ini):
    """Does not read all that it says is there."""

    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        for table, malformed in super().read(part):
            yield table.select(["user", "item"]), malformed


@dataclass
class Row:
    """No format."""
