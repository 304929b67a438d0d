"""Quotes, delimiters, encodings and headers of delimited text."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from p5dist.config.raw_files import Source
from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare.formats import lines
from p5dist.prepare.formats import quotes as quotes_module
from p5dist.prepare.formats.quotes import Quotes
from p5dist.prepare.layout import Layout
from p5dist.prepare.reading import read_range
from p5dist.prepare.sources import cut_files, find_files

Rows = list[tuple[str, ...]]


def read(path: Path, range_bytes: int = 1 << 20, **source: Any) -> tuple[Rows, int, str | None]:
    """Rows, malformed lines, and the first of these."""
    columns = {"user": "u", "item": "i"}
    layout = Layout.of_log(Source.model_validate({"files": "x", "columns": columns, **source}))
    rows: Rows = []
    malformed, example = 0, None
    for part in cut_files(find_files(str(path), layout), layout, range_bytes):
        for records in read_range(part, layout):
            rows += zip(*(column.to_pylist() for column in records.rows.columns), strict=True)
            malformed, example = malformed + records.malformed, example or records.example
    return rows, malformed, example


def checked(text: str, columns: int = 3) -> tuple[str, list[str]]:
    """The text that is left, and the malformed lines."""
    found = Quotes(",", '"', columns).check(text.encode(), last=True)
    assert not found.rest
    return found.data.decode(), [line.decode() for line in found.malformed]


@pytest.mark.parametrize(
    ("stray", "why"),
    [
        ('b,"7 inch,1\n', "open: the next quote ends no value"),
        ('b,"7" inch,1\n', "not followed by a delimiter"),
        ('"b,2,1\n', "open at the first field"),
        ('b,2,"\n', "open at the last field"),
        ('b,"x"",1\n', "two quotes stand for one, which leaves the value open"),
    ],
)
def test_a_line_with_a_stray_quote_is_malformed_by_itself(stray: str, why: str) -> None:
    before, after = 'a,"x, y",0\n', 'c,12" vinyl,2\nd,plain,3\n'
    assert checked(before + stray + after) == (before + after, [stray]), why
    assert checked(before + after + stray) == (before + after, [stray]), why


def test_values_over_several_lines_are_whole() -> None:
    text = 'a,"x\n""y"", z\n",0\r\n"b",,"\n"\nc,d,"e"'
    assert checked(text) == (text, [])


def test_a_value_over_lines_that_gives_another_number_of_fields_does_not_swallow_them() -> None:
    assert checked('a,"x,0\nb,y,1\nc,"z",2,3\nd,e,f\n') == (
        "b,y,1\n" + 'c,"z",2,3\nd,e,f\n', ['a,"x,0\n'],
    )  # fmt: skip


def test_a_value_must_end_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotes_module, "LONGEST", 40)
    long = 'a,"' + 9 * "long\n" + '",0\n'
    text, malformed = checked(long + "b,c,d\n")
    assert malformed[0] == 'a,"long\n' and text.endswith("b,c,d\n")


fields = st.text(st.sampled_from('ab",\n'), max_size=4)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(fields, fields, fields), min_size=1, max_size=6),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_python_writes_is_right_however_the_lines_come(rows: Rows, quoting: Any) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)
    data = text.getvalue().encode()
    quotes, left, rest = Quotes(",", '"', 3), b"", b""
    lines_ = data.splitlines(keepends=True)
    for i, line in enumerate(lines_):
        found = quotes.check(rest + line, last=i == len(lines_) - 1)
        assert not found.malformed
        left, rest = left + found.data, found.rest
    assert (left, rest) == (data, b"")


def test_stray_quotes_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.csv"
    good = [f'u{n},"i{n}, with a comma",t\n' for n in range(40)]
    path.write_text("u,i,t\n" + "".join([*good[:7], 'stray,"x,t\n', *good[7:], 'last,y,"t\n']))
    expected = [(f"u{n}", f"i{n}, with a comma") for n in range(40)]
    for block in (1 << 20, 50):  # in one piece, and carried from piece to piece
        monkeypatch.setattr(lines, "BLOCK_BYTES", block)
        assert read(path) == (expected, 2, 'stray,"x,t')


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "shift_jis"])
@pytest.mark.parametrize("range_bytes", [5, 1 << 20])
def test_encodings(tmp_path: Path, encoding: str, range_bytes: int) -> None:
    text = {"shift_jis": "表ソ"}.get(encoding, "éü")  # their second bytes are ASCII in Shift JIS
    rows = [(f"{text}{n}", f"{n}") for n in range(20)]
    data = "u;i\n" + "".join(f"{u};{i}\n" for u, i in rows)
    (tmp_path / "log.csv").write_bytes(data.encode(encoding))
    found = read(tmp_path / "log.csv", range_bytes, encoding=encoding, delimiter=";")
    assert found == (rows, 0, None)


def test_bytes_that_an_encoding_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"u,i\na,\x81\n")
    with pytest.raises(DataError, match=r"the file is not cp1252"):
        read(tmp_path / "log.csv", encoding="cp1252")
    for data in ("u,i\n1,2\n".encode("utf-16"), "u,i\n1,2\n".encode("utf-16-le")):
        (tmp_path / "log.csv").write_bytes(data)
        with pytest.raises(DataError, match=r"prepare\.source\.encoding, for example to utf-16"):
            read(tmp_path / "log.csv")


def test_delimiter_and_quote_are_settings(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("u|i\n'a|b'|c\nd|\"e\n")
    assert read(path, delimiter="|", quote="'")[0] == [("a|b", "c"), ("d", '"e')]
    path.write_text('u,i\n"a,b\n')
    assert read(path, quote="")[0] == [('"a', "b")]
    path.write_text('u\ti\n"a\tb"\tc\n')
    assert read(path, format="tsv", quote='"')[0] == [("a\tb", "c")]
    path.write_text("u;i\n1;2\n")
    with pytest.raises(MissingColumnError, match=r"or prepare\.source\.delimiter"):
        read(path)


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"delimiter": ";;"}, "delimiter must be one ASCII character"),
        ({"delimiter": ""}, "delimiter must be one ASCII character"),
        ({"quote": "\n"}, "quote must be one ASCII character"),
        ({"delimiter": '"', "quote": '"'}, "two characters"),
        ({"encoding": "klingon"}, "no such text encoding: 'klingon'"),
        ({"encoding": "base64"}, "no such text encoding"),
        ({"format": "parquet", "encoding": "latin-1"}, "encoding is for csv, tsv, jsonl and sequ"),
        ({"format": "jsonl", "delimiter": ";"}, "delimiter is for csv and tsv files"),
    ],
)
def test_settings_that_cannot_be(settings_: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Source.model_validate({"files": "x", **settings_})


def test_headers_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for text, said in (
        ("u,i,t,i\n1,2,3,4\n", "column 'i' is in the file 2 times"),
        ('"u","i\n1,2\n', "a quote that does not end"),
        ("u, i\n1,2\n", "the columns there are: u, ' i'"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read(path)
    path.write_bytes("u,i\n1,2\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="utf-16-le or utf-16-be"):
        read(path, encoding="utf-16")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_that_is_repeated_is_no_row(tmp_path: Path, mark: str) -> None:
    """Files that were put together, each with its header and byte order mark."""
    path = tmp_path / "log.csv"
    path.write_text(f"{mark}u,i\n1,2\n{mark}u,i\n3,i\nu,4\n{mark}u,i\n")
    assert read(path) == ([("1", "2"), ("3", "i"), ("u", "4")], 2, "u,i")
    path.write_text("1,2\nu,i\n")
    assert read(path, names=["u", "i"]) == ([("1", "2")], 1, "u,i")


def test_every_encoding_with_bytes_as_characters_can_be_cut() -> None:
    cut = lines._is_one_byte_a_line_end
    assert all(map(cut, ["utf-8", "ascii", "latin-1", "cp1251", "koi8-r", "iso8859-15"]))
    assert not any(map(cut, ["utf-16", "utf-32", "shift_jis", "gbk", "utf-7", "cp037"]))
    assert codecs.lookup("UTF8").name == "utf-8" and lines.is_utf8("UTF8")
