"""Tables of a lakehouse give the histories that the same rows give as Parquet files; the manifest
names their version."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

from p5dist import pipeline
from p5dist.advance import next_period
from p5dist.config import RunConfig, parse_job
from p5dist.data.manifest import Manifest
from p5dist.errors import DataError, MissingColumnError
from p5dist.storage import RunFolder

JOB = """
name: {name}
storage: {folder}/runs
prepare:
  source: {{files: "{files}", format: parquet, columns: {{timestamp: timestamp}}}}
  split: {{kind: time, test: 1970-01-01T00:13:20Z}}
  vocabulary: {{of: all}}
feed: {{lanes: 2}}
evaluate: null
recommend: null
report: null
"""


def rows(begin: int, end: int) -> pa.Table:
    """Interactions of the seconds ``begin`` … ``end - 1``; no two at one time."""
    draw, time = np.random.default_rng(begin), np.arange(begin, end)
    return pa.table(
        {
            "user_id": draw.integers(1, 40, len(time)),
            "item_id": pa.array([f"i{n}" for n in draw.integers(1, 20, len(time))]),
            "timestamp": time,
            "day": pa.array([f"2024-01-0{1 + t % 3}" for t in time]),
        }
    )


def job_of(folder: Path, name: str, files: str, *overrides: str) -> RunConfig:
    return parse_job(JOB.format(folder=folder, name=name, files=files), [*overrides])


Log = dict[str, list[tuple[str, int, int]]]
"""By user: item, microseconds and split code of every interaction."""


def histories(job: RunConfig) -> tuple[Manifest, Log]:
    """The manifest, and all histories with the ids of the log."""
    pipeline.run(job, ["prepare"])
    prepare = RunFolder.of_job(job).prepare
    manifest = Manifest.load(prepare)
    users, items = (
        (prepare / f"vocabulary/{side}.parquet").read_table()["external_id"].to_pylist()
        for side in ("user", "item")
    )
    found: Log = {}
    for shard in manifest.shards:
        for row in (prepare / shard.path).read_table().to_pylist():
            names = [items[i - 1] for i in row["item"]]
            own = zip(names, row["timestamp"], row["split"], strict=True)
            found[users[row["user"] - 1]] = list(own)
    return manifest, found


def prepared(folder: Path, name: str, files: str) -> tuple[Manifest, Log]:
    return histories(job_of(folder, name, files))


def iceberg_table(folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    place = {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}"}
    catalog = SqlCatalog("test", **place)
    catalog.create_namespace_if_not_exists("shop")
    return catalog.create_table_if_not_exists("shop.events", rows(0, 1).schema)


def test_the_same_histories_as_of_parquet_files(tmp_path: Path) -> None:
    whole = rows(0, 1000)
    (tmp_path / "plain").mkdir()
    pq.write_table(whole, tmp_path / "plain/log.parquet")
    for begin in range(0, 1000, 250):
        write_deltalake(tmp_path / "delta", whole.slice(begin, 250), mode="append",
                        partition_by=["day"])  # fmt: skip
    table = iceberg_table(tmp_path / "iceberg")
    table.append(whole.slice(0, 600))
    table.append(whole.slice(600))
    _, expected = prepared(tmp_path, "plain", f"{tmp_path}/plain/*.parquet")
    assert sum(map(len, expected.values())) == 1000
    manifest, found = prepared(tmp_path, "of-delta", f"delta:{tmp_path}/delta")
    assert found == expected
    assert {file.snapshot for file in manifest.inputs} == {f"delta:{tmp_path}/delta@3"}
    place = table.metadata_location.removeprefix("file://")
    manifest, found = prepared(tmp_path, "of-iceberg", f"iceberg:{place}")
    assert found == expected
    snapshot = table.current_snapshot().snapshot_id
    assert {file.snapshot for file in manifest.inputs} == {f"iceberg:{place}@{snapshot}"}


def test_an_earlier_version(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "delta", rows(0, 600))
    write_deltalake(tmp_path / "delta", rows(600, 1000), mode="append")
    table = iceberg_table(tmp_path / "iceberg")
    table.append(rows(0, 600))
    first = table.current_snapshot().snapshot_id
    table.append(rows(600, 1000))
    place = table.metadata_location.removeprefix("file://")
    for name, files in (("a", f"delta:{tmp_path}/delta@0"), ("b", f"iceberg:{place}@{first}")):
        job = job_of(tmp_path, name, files, "prepare.split={kind: time, test: 0.1}")
        pipeline.run(job, ["prepare"])
        assert Manifest.load(RunFolder.of_job(job).prepare).rows_in == 600


def test_new_commits_are_new_files_of_the_log(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "delta", rows(0, 1000))
    job = job_of(tmp_path, "grows", f"delta:{tmp_path}/delta")
    pipeline.run(job, ["prepare"])
    assert next_period(job) is None
    write_deltalake(tmp_path / "delta", rows(1000, 1300), mode="append")
    period = next_period(job)
    assert period is not None and len(period.files) == 1
    pipeline.run(period.job, [])
    assert Manifest.load(RunFolder.of_job(period.job).prepare).rows_in == 300


def test_what_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "delta", rows(0, 1000))
    for files in (
        f"delta:{tmp_path}/nothing", f"delta:{tmp_path}/delta@7",
        f"iceberg:{tmp_path}/nothing/v1.metadata.json", "iceberg:no_catalog.shop.events",
    ):  # fmt: skip
        with pytest.raises(DataError, match="cannot be read"):
            prepared(tmp_path, "none", files)


def test_a_version_whose_files_were_removed(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "delta", rows(0, 500))
    write_deltalake(tmp_path / "delta", rows(500, 1000), mode="overwrite")
    DeltaTable(tmp_path / "delta").vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False
    )
    with pytest.raises(DataError, match="no such file"):
        prepared(tmp_path, "gone", f"delta:{tmp_path}/delta@0")
    assert not (tmp_path / "runs/gone/prepare/manifest.json").exists()


def test_a_changed_schema_names_the_column(tmp_path: Path) -> None:
    """The files that were written before the table had the column lack it."""
    write_deltalake(tmp_path / "delta", rows(0, 500).drop_columns(["timestamp"]))
    write_deltalake(tmp_path / "delta", rows(500, 1000), mode="append", schema_mode="merge")
    with pytest.raises(MissingColumnError, match="timestamp"):
        prepared(tmp_path, "changed", f"delta:{tmp_path}/delta")


def test_rows_that_the_table_deletes_are_refused(tmp_path: Path) -> None:
    write_deltalake(
        tmp_path / "delta", rows(0, 500),
        configuration={"delta.enableDeletionVectors": "true"},
    )  # fmt: skip
    with pytest.raises(DataError, match="whose data files are not its rows"):
        prepared(tmp_path, "vectors", f"delta:{tmp_path}/delta")
    shutil.rmtree(tmp_path / "delta")
