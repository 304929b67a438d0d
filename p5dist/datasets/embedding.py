"""``p5dist embed``: vectors of the texts of a table, for attributes of kind vector.

A sentence encoder (Reimers and Gurevych 2019) reads one or several columns of each row in actors of
Ray Data. The result has the columns of the table, and the vector as a list of numbers. Weights are
read from safetensors files only, and no code comes with a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.scale import Scale
from p5dist.environment.console import console, progress
from p5dist.environment.extras import need
from p5dist.environment.ray_errors import errors_as_raised
from p5dist.environment.ray_session import connect
from p5dist.errors import ConfigError, DataError, StorageError
from p5dist.storage import Folder, open_filesystem

Format = Literal["parquet", "csv", "tsv", "jsonl"]
_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
}
_FILE_ROWS = 100_000


@dataclass(frozen=True)
class Embedding:
    """What is embedded, and by which model."""

    columns: tuple[str, ...]
    """Their texts are joined with ". "; a row without any text has no vector."""
    model: str
    """A folder, or the name of a model of sentence-transformers."""
    vector: str = "vector"
    """Column of the result."""
    batch_size: int = 64
    """Texts that an actor encodes at once."""


def run(
    source: str,
    out: str,
    embedding: Embedding,
    *,
    form: Format | None = None,
    actors: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Embed a table and write it as Parquet files into the folder ``out``.

    Args:
        source: a file or a folder of files.
        form: of the files; left out: by the end of the name.
        actors: processes that each hold the model; left out: one a core, or a GPU.
        address: Ray cluster to join.

    Returns:
        ``rows``, ``embedded``, ``width``, ``files``.

    Raises:
        ConfigError: sentence-transformers is not installed; the format is not known; no such model.
        DataError: a column is not in the table, or the vector's column is there already.
        StorageError: the folder has files.
    """
    need("sentence_transformers", "embed", "p5dist embed")
    folder = Folder.open(out)
    if folder.exists() and folder.children():
        raise StorageError(
            "the folder has files", where=out, rule="nothing is overwritten",
            fix="name another folder, or empty this one",
        )  # fmt: skip
    form = form or _format_of(source)
    load_encoder(embedding.model, "cpu")  # a mistake is an error here, not the death of an actor
    connect(Scale(address=address))
    import ray

    with errors_as_raised("embed"):
        table = _read(source, form)
        schema = table.schema()
        names = [] if schema is None else list(schema.names)
        _check(names, embedding, source)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        wanted = actors or gpus or int(ray.cluster_resources().get("CPU", 1))
        made = table.map_batches(
            Encoder,
            fn_constructor_args=(embedding, not gpus),
            batch_size=embedding.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=wanted),
            num_cpus=1,
            num_gpus=1 if gpus else None,
        )
        made.context.raise_original_map_exception = True
        made.context.execution_options.preserve_order = True
        try:
            result = _write(made, folder, embedding.vector)
        except BaseException:  # Ctrl-C too: part of a table is taken for the whole
            folder.remove()
            raise
    console.print(
        f"  {result['rows']:,} rows, {result['embedded']:,} with a vector of {result['width']} "
        f"numbers: {out}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    return {"out": out, **result}


class Encoder:
    """Adds the vectors to a part of a table; an actor of Ray Data."""

    def __init__(self, embedding: Embedding, on_cpu: bool) -> None:
        self._embedding = embedding
        self._model = load_encoder(embedding.model, "cpu" if on_cpu else None)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """``rows`` with the column of vectors."""
        text = texts(rows, self._embedding.columns)
        some = np.flatnonzero(np.asarray(pc.not_equal(text, "")))
        found = np.zeros((len(rows), self._width), dtype=np.float32)
        if len(some):
            found[some] = self._model.encode(
                text.take(pa.array(some)).to_pylist(),
                batch_size=self._embedding.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        there = np.zeros(len(rows), dtype=bool)
        there[some] = True
        flat = pa.FixedSizeListArray.from_arrays(
            pa.array(found.reshape(-1)), self._width, mask=pa.array(~there)
        )
        return rows.append_column(self._embedding.vector, flat)

    @property
    def _width(self) -> int:
        width: int = self._model.get_sentence_embedding_dimension()
        return width


def load_encoder(model: str, device: str | None) -> Any:
    """A model of sentence-transformers; weights from safetensors, without code of its own.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            model,
            device=device,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as e:  # of many libraries
        raise ConfigError(
            "the model cannot be loaded", where="--model", value=model,
            rule="a folder or a name of sentence-transformers, with weights in safetensors",
            fix=f"correct the name, or fetch the model into a folder first ({e})",
        ) from e  # fmt: skip


def texts(rows: pa.Table, columns: Sequence[str]) -> pa.Array:
    """[n] the texts of the columns, joined; empty where all are null or blank."""
    parts = []
    for name in columns:
        text = pc.utf8_trim_whitespace(pc.fill_null(rows[name].cast(pa.string()), ""))
        parts.append(text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text)
    found = parts[0]
    for part in parts[1:]:
        both = pc.and_(pc.not_equal(found, ""), pc.not_equal(part, ""))
        between = pc.if_else(both, ". ", "")
        found = pc.binary_join_element_wise(found, part, between)
    return found


def _read(source: str, form: str) -> Any:
    """A dataset of Ray Data over the files."""
    import pyarrow.csv
    import pyarrow.dataset
    import ray.data

    fs, path = open_filesystem(source)
    where: dict[str, Any] = {"filesystem": fs}
    if form == "parquet":
        return ray.data.read_parquet(path, **where)
    if form == "jsonl":
        return ray.data.read_json(path, **where)
    parse = pyarrow.csv.ParseOptions(delimiter="\t" if form == "tsv" else ",")
    kind = pyarrow.dataset.CsvFileFormat(parse_options=parse)
    names = pyarrow.dataset.dataset(path, filesystem=fs, format=kind).schema.names
    # As text, so that an id such as 007 stays what it is.
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    options = {"parse_options": parse, "convert_options": convert, "file_extensions": None}
    return ray.data.read_csv(path, **options, **where)


def _format_of(source: str) -> Format:
    for end, form in _FORMATS.items():
        if source.rstrip("/").removesuffix(".gz").endswith(end):
            return form
    raise ConfigError(
        "the format of the table is not known", where=source,
        rule=f"the name ends in {', '.join(_FORMATS)}", fix="pass --format",
    )  # fmt: skip


def _check(names: list[str], embedding: Embedding, source: str) -> None:
    for column in embedding.columns:
        if column not in names:
            raise DataError(
                "no such column", where=source, value=column,
                rule=f"the table has: {', '.join(names)}", fix="correct --column",
            )  # fmt: skip
    if embedding.vector in names:
        raise DataError(
            "the table has a column of this name already", where=source, value=embedding.vector,
            rule="the vectors get a new column", fix="pass --vector with another name",
        )  # fmt: skip


def _write(made: Any, folder: Folder, vector: str) -> dict[str, Any]:
    """Write what comes, in its order, into files of about _FILE_ROWS rows."""
    import ray

    embedded = width = rows = files = 0
    waiting: list[pa.Table] = []

    def write() -> int:
        (folder / f"part-{files:05d}.parquet").write_table(pa.concat_tables(waiting))
        waiting.clear()
        return files + 1

    folder.make()
    with progress("rows") as bar:
        task = bar.add_task("embed", total=None, note="")
        for bundle in made.iter_internal_ref_bundles():
            for block in bundle.block_refs:
                table: pa.Table = ray.get(block)
                if not len(table):
                    continue
                waiting.append(table)
                rows += len(table)
                embedded += len(table) - table[vector].null_count
                width = table.schema.field(vector).type.list_size
                bar.update(task, advance=len(table))
                if sum(map(len, waiting)) >= _FILE_ROWS:
                    files = write()
    if waiting:
        files = write()
    return {"rows": rows, "embedded": embedded, "width": width, "files": files}
