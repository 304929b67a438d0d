"""Files with external ids: of users to make lists for, of items that may or must not be listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare.arrays import one_array
from p5dist.prepare.column_types import check_type
from p5dist.prepare.listing import list_files, once
from p5dist.prepare.values import as_text
from p5dist.storage import open_filesystem

_PACKED = (".gz", ".bz2", ".zst", ".lz4")
_NO_CHARACTER = "\x1f"  # the unit separator: no id holds it


def read_ids(files: str | tuple[str, ...], key: str, names: Sequence[str]) -> pa.StringArray:
    """[n] the distinct ids of all files, as text, in the order of first sight.

    Parquet, CSV (``.csv``) and TSV (``.tsv``) have the ids in a column of one of the ``names``, or
    in their only column. A file of any other name is text with one id a line; spaces around an id
    and empty lines are left out. The names may end in .gz, .bz2, .zst or .lz4. Ids are held in
    memory: about 100 bytes each.

    Args:
        files: as in the job file.
        key: of the job file that names the files, for messages.
        names: columns that may hold the ids, the likeliest first.

    Raises:
        DataError: no such file, a file that cannot be read, no id in any file.
        MissingColumnError: a table with several columns and none of the names.
    """
    patterns = (files,) if isinstance(files, str) else files
    parts = []
    for listed in once(file for pattern in patterns for file in list_files(pattern, key)):
        try:
            for column in _columns(listed.url, key, names):
                text = one_array(as_text(column))
                parts.append(pc.unique(text.filter(pc.greater(pc.binary_length(text), 0))))
        except (pa.ArrowInvalid, OSError) as e:
            raise DataError(
                "a file with ids cannot be read", where=listed.url, value=str(e),
                rule="Parquet, CSV or TSV by the end of its name; any other file is text with one "
                "id a line",
                fix=f"correct the file or {key}",
            ) from e  # fmt: skip
    found: pa.StringArray = pc.unique(one_array(pa.chunked_array(parts, pa.string())))
    if not len(found):
        raise DataError(
            "no id in the file", where=key, value=", ".join(patterns),
            rule="at least one id", fix=f"correct {key}, or leave it out",
        )  # fmt: skip
    return found


def _columns(url: str, key: str, names: Sequence[str]) -> Iterator[pa.Array]:
    """The column of ids in pieces."""
    fs, path = open_filesystem(url)
    bare = path
    for end in _PACKED:
        bare = bare.removesuffix(end)
    kind = bare.rpartition(".")[2].lower()
    if kind == "parquet":
        with pq.ParquetFile(path, filesystem=fs) as file:
            name = _column(file.schema_arrow.names, url, key, names)
            check_type(file.schema_arrow.field(name).type, "id", name, url, key)
            for batch in file.iter_batches(columns=[name]):
                yield batch.column(0)
    elif kind in ("csv", "tsv"):
        delimiter = "," if kind == "csv" else "\t"
        parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        with fs.open_input_stream(path) as stream, pacsv.open_csv(stream, None, parse) as head:
            name = _column(head.schema.names, url, key, names)
        convert = pacsv.ConvertOptions(include_columns=[name], column_types={name: pa.string()})
        with fs.open_input_stream(path) as stream:
            for batch in pacsv.open_csv(stream, None, parse, convert):
                yield batch.column(0)
    else:
        yield from _lines(url)


def _lines(url: str) -> Iterator[pa.Array]:
    fs, path = open_filesystem(url)
    read = pacsv.ReadOptions(column_names=["id"])
    parse = pacsv.ParseOptions(delimiter=_NO_CHARACTER, quote_char=False)
    convert = pacsv.ConvertOptions(column_types={"id": pa.string()})
    with fs.open_input_stream(path) as stream:
        try:
            batches = pacsv.open_csv(stream, read, parse, convert)
        except pa.ArrowInvalid as e:
            if "Empty CSV" in str(e):
                return
            raise
        for batch in batches:
            yield pc.utf8_trim_whitespace(batch.column(0))


def _column(there: Sequence[str], url: str, key: str, names: Sequence[str]) -> str:
    if len(there) == 1:
        return there[0]
    for name in names:
        if name in there:
            return name
    raise MissingColumnError(
        "no column with ids in the file", where=url,
        rule=f"a single column, or one named {' or '.join(dict.fromkeys(names))}; the columns "
        f"there are: {', '.join(there)}",
        fix=f"rename the column, or name another file in {key}",
    )  # fmt: skip
