"""The stage from S3 to S3: the same results as on disk, even if the store fails for a while."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray

from p5dist import pipeline
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.environment.workers import RayTasks
from p5dist.errors import DataError, StorageError
from p5dist.prepare.stage import run
from p5dist.storage import RunFolder
from tests.prepare.runs import dirty_rows, make_job, write_csv
from tests.s3 import KEY_ID, SECRET, Store

pytestmark = pytest.mark.usefixtures("ray_session")

Files = dict[str, bytes]
TEXT = pacsv.ConvertOptions(
    column_types=dict.fromkeys(("user", "item", "rating", "timestamp"), "string")
)


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


FORMATS = ("csv", slow("parquet"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dirty log in two files of each format."""
    folder = tmp_path_factory.mktemp("log")
    for i in range(2):
        file = write_csv(folder / f"part-{i}.csv", dirty_rows(i, 1500))
        pq.write_table(pacsv.read_csv(file, convert_options=TEXT), folder / f"part-{i}.parquet",
                       row_group_size=400)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def on_disk(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """By format, the files that the stage writes on a disk."""
    return cache(
        lambda format: contents(job_at(str(tmp_path_factory.mktemp(format)), str(log), format))
    )


def job_at(storage: str, log: str, format: str) -> RunConfig:
    """Read in units that are smaller than a file."""
    source = {"files": f"{log}/*.{format}", "format": format}
    rules = {"clean": {"keep_rejected": True}, "vocabulary": {"of": "all"}}
    return make_job(Path("runs"), source, **rules).model_copy(update={"storage": storage})


def contents(job: RunConfig) -> Files:
    """The files of the stage, run on the spot; what names the input apart."""
    folder = RunFolder.of(job.storage, job.name)
    manifest = run(job, folder, RayTasks(job.scale, "prepare"), range_bytes=20_000)
    assert Manifest.load(folder.prepare) == manifest
    return files_of(folder)


def files_of(folder: RunFolder) -> Files:
    base = folder.prepare
    found = base.fs.get_file_info(pafs.FileSelector(base.path, recursive=True))
    names = [info.path[len(base.path) + 1 :] for info in found if info.is_file]
    files = {name: (base / name).read_bytes() for name in names}
    # The fingerprint of a file on disk is of its bytes, of a remote one of its time of change.
    del files["result.json"]  # the time taken
    manifest: dict[str, Any] = json.loads(files.pop("manifest.json"))
    for name in ("fingerprint", "inputs", "inputs_from"):
        del manifest[name]
    return files | {"manifest": json.dumps(manifest).encode()}


def upload(s3: Store, log: Path) -> str:
    client = s3.client()
    for file in log.iterdir():
        client.upload_file(str(file), s3.bucket, f"logs/{file.name}")
    return f"{s3.url}/logs"


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_files_as_on_disk(
    s3: Store, log: Path, on_disk: Callable[[str], Files], format: str
) -> None:
    job = job_at(f"{s3.url}/runs", upload(s3, log), format)
    assert contents(job) == on_disk(format)
    assert len(on_disk(format)) > 6
    assert not [key for key in s3.all_keys() if "scratch" in key]


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_that_fails_now_and_then_changes_nothing_and_no_credential_is_written(
    s3: Store, log: Path, on_disk: Callable[[str], Files], format: str,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    job = job_at(f"{s3.url}/runs", upload(s3, log), format)
    faults = [
        s3.proxy.inject("slow_down", method="PUT", key="*/prepare/*", once_each=True),
        s3.proxy.inject("lose_answer", method="PUT", key="*/shards/*", once_each=True),
        s3.proxy.inject("drop", method="GET", key="*/logs/*", once_each=True),
        s3.proxy.inject("truncate", method="GET", key="*.*", once_each=True),
        s3.proxy.inject("delay", method="HEAD", seconds=0.3, times=3),
        s3.proxy.inject("slow_down", method="POST", once_each=True),
    ]
    with caplog.at_level(logging.INFO):
        pipeline.run(job, ["prepare"])
    assert all(fault.hits for fault in faults)
    assert any("manifest.json: attempt 2 of" in r.getMessage() for r in caplog.records)
    folder = RunFolder.of(job.storage, job.name)
    assert files_of(folder) == on_disk(format)

    out, err = capfd.readouterr()
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    told = {key: s3.read(key) for key in s3.all_keys()}
    assert {"runs/run/job.yaml", "runs/run/prepare/manifest.json"} <= set(told)
    told |= {str(p): p.read_bytes() for p in logs.rglob("*") if p.is_file()}
    told |= {"terminal": (out + err).encode(), "log": caplog.text.encode()}
    for name, data in told.items():
        assert KEY_ID.encode() not in data and SECRET.encode() not in data, name


@pytest.mark.parametrize(
    ("action", "method", "key", "format"),
    [
        ("deny", "GET", "logs/part-1.csv", "csv"),
        ("truncate", "GET", "logs/part-1.csv", "csv"),
        slow("shorten", "GET", "logs/part-0.parquet", "parquet"),
        slow("drop", "GET", "logs/part-0.parquet", "parquet"),
        ("deny", "PUT", "runs/run/prepare/shards/part-00001.parquet", "csv"),
        slow("slow_down", "PUT", "runs/run/prepare/vocabulary/item.parquet", "csv"),
        slow("deny", "PUT", "runs/run/prepare/manifest.json", "csv"),
    ],
)
def test_what_fails_for_good_is_one_error_and_no_manifest(
    s3: Store, log: Path, on_disk: Callable[[str], Files],
    action: str, method: str, key: str, format: str,
) -> None:  # fmt: skip
    job = job_at(f"{s3.url}/runs", upload(s3, log), format)
    s3.proxy.inject(action, method=method, key=f"*/{key}", times=None)  # type: ignore[arg-type]
    with pytest.raises(StorageError) as caught:
        contents(job)
    assert caught.value.where == f"{s3.url}/{key}" and caught.value.fix
    assert not (RunFolder.of(job.storage, job.name).prepare / "manifest.json").exists()
    assert "runs/run/prepare/manifest.json" not in s3.all_keys()
    if method == "PUT":
        s3.proxy.clear()
        assert contents(job) == on_disk(format)  # the same command, once the store is well


def test_missing_buckets_and_files(s3: Store, log: Path) -> None:
    logs = upload(s3, log)
    with pytest.raises(StorageError, match="no such bucket") as caught:
        contents(job_at(f"{s3.url}x/runs", logs, "csv"))
    assert (caught.value.where or "").startswith(f"{s3.url}x/")
    for files in (f"{s3.url}x/logs", f"{s3.url}x/log*"):
        with pytest.raises(StorageError, match="no such bucket") as caught:
            contents(job_at(f"{s3.url}/runs", files, "csv"))
        assert (caught.value.where or "").startswith(f"{s3.url}x")
    with pytest.raises(DataError, match="no such file") as missing:
        contents(job_at(f"{s3.url}/runs", f"{s3.url}/elsewhere", "csv"))
    assert missing.value.value == f"{s3.url}/elsewhere/*.csv"
    assert all(key.startswith("logs/") for key in s3.all_keys())
