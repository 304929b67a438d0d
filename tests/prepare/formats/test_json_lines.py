from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.prepare.formats.json_lines import parse_json_lines
from p5dist.prepare.values import as_text
from tests.prepare.test_reading import layout, read


def test_json_lines_that_do_not_agree(tmp_path: Path) -> None:
    """Every line is a row or counts as malformed, whatever the lines around it are."""
    lines_ = [
        ('{"u": 1, "i": "a", "t": 5, "x": {"deep": [1, {}]}}', ("1", "a", "5")),
        ('{"u": "b", "i": 12345678901234567890, "t": 5.5}', ("b", "12345678901234567890", "5.5")),
        ('{"i": true, "u": 3.0}', ("3", "true", None)),
        ('{"u": null, "i": 1e3, "t": "6", "x": 1}', (None, "1000", "6")),
        ('{"u": 1, "i": 2', None),
        ('["u", "i"]', None),
        ("5", None),
        ('{"u": 1, "i": 2} {"u": 3, "i": 4}', None),
        ('{"u": {"a": 1}, "i": 2}', None),
        ('{"u": 1, "i": [2]}', None),
        ('{"u": "\\ud800", "i": 2}', None),
        ("", None),
        ("  ", None),
        ('{"u": "\\u00e9", "i": "2014-01-02", "t": NaN}', ("é", "2014-01-02", "NaN")),
        ("{}", (None, None, None)),
        ("[" * 100_000, None),
        ('{"u": 1,', None),
        ('"i": 2}', None),
    ]
    path = tmp_path / "log.jsonl"
    columns = {"user": "u", "item": "i", "timestamp": "t"}
    good = '{"u": 7, "i": "seven", "t": 70}'
    for before in (0, 1, 40_000):  # more than one piece
        text = [good] * before + [line for line, _ in lines_] + [good] * before
        path.write_text("\n".join(text))
        rows, malformed, _ = read(str(path), layout(format="jsonl", columns=columns), 1 << 30)
        expected = [row for _, row in lines_ if row is not None]
        assert rows == [("7", "seven", "70")] * before + expected + [("7", "seven", "70")] * before
        blank = sum(not line.strip() for line, _ in lines_)
        assert malformed == len(lines_) - len(expected) - blank


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=5),
    st.floats(-1e6, 1e6).map(lambda x: round(x, 2)),
)  # fmt: skip
alike = st.fixed_dictionaries(
    {"u": st.integers(0, 9), "i": st.text(max_size=3), "t": st.integers(0, 9)}
)
objects = st.dictionaries(st.sampled_from(["u", "i", "t", "x"]), scalars, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(objects, alike), min_size=1, max_size=8))
def test_json_lines_agree_with_python(rows: list[dict[str, Any]]) -> None:  # fmt: skip
    def text(value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return json.dumps(value)

    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    table, malformed = parse_json_lines(data, {"u": "id", "i": "id", "t": "time"})
    assert malformed == 0 and len(table) == len(rows)
    for name in ("u", "i", "t"):
        assert as_text(table[name]).to_pylist() == [text(row.get(name)) for row in rows]


def test_numbers_are_the_ids_that_typed_columns_give() -> None:
    """Whole numbers lose fraction and exponent, exactly for any number of digits."""
    written = ["12", "12.0", "12.00", "1.2e1", "-0", "-0.0", "12.50", "9007199254740994.0",
               "123456789012345678901234567890", "123456789012345678901234567890.0",
               '"012"']  # fmt: skip
    lines_ = "".join(f'{{"u": {n}, "i": {n}}}\n' for n in written)
    table, malformed = parse_json_lines(lines_.encode(), {"u": "id", "i": "id"})
    assert malformed == 0
    assert table["u"].to_pylist() == [
        "12", "12", "12", "12", "0", "0", "12.5", "9007199254740994",
        "123456789012345678901234567890", "123456789012345678901234567890", "012",
    ]  # fmt: skip
