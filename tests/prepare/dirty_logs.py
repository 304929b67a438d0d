"""Dirty logs and settings made at random: every format, type, unit, encoding and kind of fault."""

from __future__ import annotations

import bz2
import gzip
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.config import RunConfig
from tests.prepare.runs import make_job

NAMES = {"user": "who", "item": "what", "timestamp": "when", "rating": "stars", "event": "kind"}
NUMBERS = ["1", "2", "3", "7", "10", "12", "007", "9007199254740993", "-4"]
TEXTS = [
    "a",
    "é",
    "NA",
    "a b",
    "x,y",
    'q"q',
    '"',
    "l\nl",
    "t\tt",
    "s;s",
    "10",
    "012",
    " 7 ",
    "12.0",
]
NULLS = ["", "NULL", "nan", r"\N"]
START = 1_700_000_000  # seconds
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Dirty:
    """A job, and its files of training and of a given test split."""

    job: RunConfig
    log: list[Path]
    test: list[Path]


def dirty(seed: int, folder: Path, size: int) -> Dirty:
    """The job and the log of a seed, of up to ``size`` rows."""
    draw = Random(seed)
    source, settings = _source(draw), _settings(draw)
    if "timestamp" not in source["columns"]:
        _without_times(settings, source["format"])
    if "event" in source["columns"] and draw.random() < 0.5:
        settings["events"] = draw.choice([{"view": 0}, {"*": 0, "buy": 2}, {"buy": 3}])
    if "event" in source["columns"] and draw.random() < 0.3:
        settings["split"] = {"kind": "leave_one_out", "events": ["buy"]}
    if "rating" in source["columns"] and draw.random() < 0.3:
        settings["clean"]["rating_range"] = [0, 5]
    writer = _Writer(draw, source)
    files = [writer.write(folder / f"log-{n}", size) for n in range(draw.choice([1, 1, 2, 3]))]
    files[0] = writer.write(folder / "log-0", size, sure=True)
    tests = []
    if draw.random() < 0.15:
        tests = [writer.write(folder / "test-0", size, least=1)]
        settings["split"] = {"kind": "given", "test": str(tests[0])}
    source["files"] = [str(file) for file in files]
    return Dirty(make_job(folder, source, **settings), files, tests)


def _source(draw: Random) -> dict[str, Any]:
    format_ = draw.choice(["csv", "csv", "csv", "tsv", "jsonl", "jsonl", "parquet", "parquet",
                           "sequences"])  # fmt: skip
    columns = {"user", "item"}
    if format_ != "sequences":
        columns |= {name for name in ("rating", "event") if draw.random() < 0.6}
        columns |= {"timestamp"} if draw.random() < 0.85 else set()
    source: dict[str, Any] = {
        "format": format_,
        "columns": {ours: NAMES[ours] for ours in NAMES if ours in columns},
        "timestamp_unit": draw.choice(["s", "ms", "us", "ns", "iso"]),
    }
    if format_ in ("csv", "tsv"):
        if draw.random() < 0.3:
            source["delimiter"] = draw.choice([";", "|", ",", "\t"])
        if draw.random() < 0.2:
            source["quote"] = draw.choice(["'", "", '"'])
    if format_ not in ("parquet", "sequences") and draw.random() < 0.2:
        source["encoding"] = draw.choice(["latin-1", "utf-16", "cp1252"])
    return source


def _settings(draw: Random) -> dict[str, Any]:
    share = draw.choice([0.1, 0.25, 0.29, 0.4])
    split = draw.choice(
        [
            {"kind": "leave_one_out"},
            {"kind": "ratio", "test": share, "validation": draw.choice([0, 0.07, 0.3])},
            {"kind": "time", "test": share, "validation": draw.choice([None, 0.07, 0.3])},
            {"kind": "time", "test": moment(draw.choice([2, 2.5, 5])),
             "validation": draw.choice([None, moment(1.25)])},
        ]
    )  # fmt: skip
    return {
        "split": split,
        "clean": {
            "duplicates": draw.choice(["drop", "keep"]),
            "repeat_window": draw.choice([None, None, 0, 2]),
            "time_range": draw.choice([None, None, [START, START + 6]]),
            "max_user_interactions": draw.choice([None, None, 30]),
            "min_user_interactions": draw.choice([1, 1, 2, 4]),
            "min_item_interactions": draw.choice([1, 1, 2, 4]),
            "keep_rejected": draw.random() < 0.5,
        },
        "session_gap": draw.choice([None, None, 1]),
        "max_length": draw.choice([None, None, 3]),
        "longer": draw.choice(["windows", "last"]),
        "vocabulary": {"of": draw.choice(["train", "all"])},
        "privacy": {"min_item_users": draw.choice([1, 1, 2, 3])},
    }


def _without_times(settings: dict[str, Any], format_: str) -> None:
    settings["session_gap"] = None
    settings["clean"] |= {"repeat_window": None, "time_range": None}
    by_date = isinstance(settings["split"].get("test"), str)
    if by_date or (settings["split"]["kind"] == "time" and format_ == "sequences"):
        settings["split"] = {"kind": "leave_one_out"}


def moment(second: float) -> str:
    return datetime.fromtimestamp(START + second, timezone.utc).isoformat()


class _Writer:
    """Writes files of one format; all files hold numbers or all hold text in a column."""

    def __init__(self, draw: Random, source: dict[str, Any]) -> None:
        self.draw, self.source = draw, source
        self.columns: list[str] = list(source["columns"])
        self.numbers = {"user": draw.random() < 0.6, "item": draw.random() < 0.6}
        self.typed_times = source["timestamp_unit"] == "iso" or draw.random() < 0.4
        self.dirt = draw.choice([0, 0, 0.05, 0.3])
        # More columns than are read, in another order.
        self.order = [*self.columns, "more"]
        draw.shuffle(self.order)

    def write(self, path: Path, size: int, *, least: int = 0, sure: bool = False) -> Path:
        """Write random rows; with ``sure`` also users and items that no rule drops."""
        rows = [self.row() for _ in range(max(self.draw.randrange(size), least))]
        if sure:
            rows += [self.sure_row(u, i) for u in range(6) for i in range(6)]
        format_ = self.source["format"]
        if format_ == "parquet":
            path = path.with_suffix(".parquet")
            self.parquet(path, rows)
            return path
        lines = {"csv": self.delimited, "tsv": self.delimited, "jsonl": self.json_lines,
                 "sequences": self.sequences}[format_](rows)  # fmt: skip
        end = self.draw.choice(["\n", "\n", "\r\n"]) if format_ != "sequences" else "\n"
        text = end.join(lines) + end * self.draw.choice([0, 1, 1, 2])
        encoding = self.source.get("encoding", "utf-8")
        if encoding == "utf-8" and self.draw.random() < 0.2:
            text = "\ufeff" + text
        data = text.encode(encoding)
        suffix = self.draw.choice(["", "", "", ".gz", ".bz2"])
        path = path.with_name(f"{path.name}.txt{suffix}")
        path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](data))
        return path

    def row(self) -> dict[str, Any]:
        draw = self.draw
        found: dict[str, Any] = {
            side: draw.choice(NUMBERS[:6] if self.numbers[side] else TEXTS)
            for side in ("user", "item")
        }
        if draw.random() < self.dirt:
            found[draw.choice(["user", "item"])] = None
        found["timestamp"] = self.time()
        found["rating"] = draw.choice([None, "1", "3.5", "0", "-0.0", "9", "4.0"])
        found["event"] = draw.choice(["view", "buy", "", "like"])
        found["more"] = draw.choice(["", "free text", "1"])
        return found

    def sure_row(self, user: int, item: int) -> dict[str, Any]:
        def name(side: str, number: int) -> str:
            return str(100 + number) if self.numbers[side] else f"s{number}"

        micros = (START * 10**6) + (3 * item + user % 3) * 500_000
        return {
            "user": name("user", user), "item": name("item", item), "timestamp": micros,
            "rating": "3", "event": "buy", "more": "",
        }  # fmt: skip

    def time(self) -> int | None:
        """Microseconds: many ties, several within a second, some far off; None: no time."""
        draw = self.draw
        if draw.random() < self.dirt:
            return draw.choice([None, 0, -1, 250_000_000_000_000_000, START * 10**6 - 1])
        return START * 10**6 + draw.choice([0, 1, 250, 1000, 999_999]) + 10**6 * draw.randrange(8)

    # Text

    def time_text(self, micros: int | None) -> str:
        draw, unit = self.draw, self.source["timestamp_unit"]
        if micros is None:
            return draw.choice(["", "soon", "NULL", "2024-13-01", "1e400", "--5"])
        if unit == "iso":
            time = np.datetime_as_string(np.datetime64(micros, "us"))
            return draw.choice([time, f"{time}Z", f"{time} UTC", f" {time}+00:00"])
        number = Decimal(micros) * PER_SECOND[unit] / 10**6
        text = f"{number:f}"
        return draw.choice([text, f" {text} ", text + "." if "." not in text else text + "0"])

    def text_row(self, row: dict[str, Any]) -> dict[str, str]:
        draw = self.draw
        found = {k: draw.choice(NULLS) if v is None else str(v) for k, v in row.items()}
        found["timestamp"] = self.time_text(row["timestamp"])
        if draw.random() < self.dirt:
            found["rating"] = draw.choice(["good", "1e99", " 4 ", "1e1", ".5"])
        return found

    def delimited(self, rows: list[dict[str, Any]]) -> list[str]:
        draw, tsv = self.draw, self.source["format"] == "tsv"
        mark = self.source.get("delimiter", "\t" if tsv else ",")
        quote = self.source.get("quote", "" if tsv else '"')

        def field(value: str) -> str:
            if not quote:
                return value.replace(mark, "").replace("\n", "")
            wild = draw.random() < self.dirt / 4
            if wild:
                return draw.choice([quote + value, value + quote, f"{quote}{value}{quote}x"])
            if draw.random() < 0.2 or any(c in value for c in (mark, quote, "\n")):
                return quote + value.replace(quote, 2 * quote) + quote
            return value

        names = {**self.source["columns"], "more": "more"}
        header = mark.join(names[name] for name in self.order)
        lines = [header]
        for row in map(self.text_row, rows):
            lines.append(mark.join(field(row[name]) for name in self.order))
            if draw.random() < self.dirt:
                lines.append(draw.choice([header, "", "x", mark * 9, lines[-1] + mark + "1"]))
        return lines

    def json_lines(self, rows: list[dict[str, Any]]) -> list[str]:
        draw, lines = self.draw, []
        for row, text in zip(rows, map(self.text_row, rows), strict=True):
            found: dict[str, Any] = {}
            for name in self.columns:
                value: Any = text[name]
                if row[name] is None and name != "timestamp":
                    value = draw.choice([None, ""])
                elif name in self.numbers and self.numbers[name] and draw.random() < 0.7:
                    value = int(value) if draw.random() < 0.8 else float(value)
                elif name == "timestamp" and not self.iso and row[name] is not None:
                    value = self.json_time(row[name])
                elif name == "rating" and draw.random() < 0.5 and text[name].isdecimal():
                    value = float(value)
                if value is not None or draw.random() < 0.5:
                    found[self.source["columns"][name]] = value
            line = json.dumps(found, ensure_ascii=draw.random() < 0.5)
            lines.append(line)
            if draw.random() < self.dirt:
                nested = json.dumps({**found, NAMES["user"]: {"id": 1}})
                lines.append(draw.choice(["", "{", "[1]", line + line, nested, "  "]))
        return lines if any(line.startswith("{") for line in lines) else ["{}", *lines]

    @property
    def iso(self) -> bool:
        return self.source["timestamp_unit"] == "iso"

    def json_time(self, micros: int) -> Any:
        number = Decimal(micros) * PER_SECOND[self.source["timestamp_unit"]] / 10**6
        return int(number) if number == int(number) else float(number)

    def sequences(self, rows: list[dict[str, Any]]) -> list[str]:
        def word(value: str | None) -> str:
            return "_".join((value or "null").split())

        lines = []
        for row in rows:
            items = [
                word(row["item"]),
                *self.draw.choices(["1", "2", "b"], k=self.draw.randrange(3)),
            ]
            lines.append(self.draw.choice([" ", "\t", "  "]).join([word(row["user"]), *items]))
            if self.draw.random() < self.dirt:
                lines.append(self.draw.choice(["", "lonely", "  "]))
        return lines

    # Typed columns

    def parquet(self, path: Path, rows: list[dict[str, Any]]) -> None:
        columns = {
            self.source["columns"][name]: self.typed(name, [row[name] for row in rows])
            for name in self.columns
        }
        pq.write_table(pa.table(columns), path, row_group_size=self.draw.choice([3, 50, 1000]))

    def typed(self, name: str, values: list[Any]) -> pa.Array:
        draw = self.draw
        if name == "timestamp":
            return self.times(values)
        if self.numbers.get(name):
            whole = [None if v is None else int(v) for v in values]
            kind = draw.choice([pa.int64(), pa.int32(), pa.float64(), pa.float32(),
                                pa.decimal128(20, 2), pa.uint64()])  # fmt: skip
            if pa.types.is_decimal(kind):
                return pa.array([None if v is None else Decimal(v) for v in whole], kind)
            return pa.array(whole, kind)
        if name == "rating":
            found = [None if v is None else float(v) for v in values]
            return pa.array(found, draw.choice([pa.float32(), pa.float64()]))
        text = [v if v is not None else draw.choice([None, *NULLS]) for v in values]
        array = pa.array(text, draw.choice([pa.string(), pa.large_string()]))
        return array.dictionary_encode() if draw.random() < 0.3 else array

    def times(self, values: list[int | None]) -> pa.Array:
        draw, unit = self.draw, self.source["timestamp_unit"]
        if self.typed_times:
            kind = draw.choice(["us", "us", "ms", "s"])
            count = [None if v is None else v // (10**6 // PER_SECOND[kind]) for v in values]
            return pa.array(count, pa.timestamp(kind, draw.choice([None, "UTC", "Asia/Tokyo"])))
        scaled = [None if v is None else Decimal(v) * PER_SECOND[unit] / 10**6 for v in values]
        if unit == "s" or draw.random() < 0.5:
            if unit == "ns":  # from 2⁵³ on, floats are not whole microseconds
                return pa.array([None if v is None or abs(v) > 2**62 else int(v) for v in scaled])
            return pa.array([None if v is None else float(v) for v in scaled], pa.float64())
        return pa.array([None if v is None or abs(v) > 2**62 else int(v) for v in scaled])
