"""A failing store: a bounded number of logged retries, and never incomplete data."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.errors import StorageError
from p5dist.storage import Folder
from p5dist.storage.s3 import filesystem
from p5dist.storage.s3.filesystem import S3
from tests.s3 import ATTEMPTS, Store

DATA = np.random.default_rng(1).bytes(20_000_000)  # three parts


@pytest.fixture
def folder(s3: Store) -> Folder:
    return Folder.open(f"{s3.url}/runs/a")


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An answer must begin, and go on, within 0.5 s."""
    monkeypatch.setattr(filesystem, "READ_SECONDS", 0.5)
    S3.clear_instance_cache()
    yield
    S3.clear_instance_cache()


def no_uploads(s3: Store) -> bool:
    return "Uploads" not in s3.client().list_multipart_uploads(Bucket=s3.bucket)


@pytest.mark.parametrize("action", ["slow_down", "drop", "lose_answer", "truncate", "shorten"])
def test_reads_are_tried_again(
    s3: Store, folder: Folder, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, table = folder / "t", pa.table({"x": range(100_000)})
    file.write_table(table)
    fault = s3.proxy.inject(action, method="GET", key="*/runs/a/t", times=2)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert file.read_table() == table
    assert fault.hits == 2
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("p5dist")]
    # aiohttp itself repeats a request once if a connection that was kept open ends.
    assert len(lines) == 2 or (action in ("drop", "lose_answer") and lines)
    assert lines[0].startswith(f"get_object {file}: attempt 2 of {ATTEMPTS} in ")
    assert action != "slow_down" or "503 SlowDown: Please reduce" in lines[0]


@pytest.mark.parametrize("action", ["slow_down", "drop", "lose_answer"])
def test_writes_listings_and_removals_are_tried_again(
    s3: Store, folder: Folder, action: str
) -> None:
    faults = [
        s3.proxy.inject(action, method=method, times=2)  # type: ignore[arg-type]
        for method in ("PUT", "HEAD", "GET", "POST")
    ]
    (folder / "b").write_text("1")
    assert (folder / "b").size() == 1
    assert folder.children() == ["b"]
    folder.remove()
    assert [fault.hits for fault in faults] == [2, 2, 2, 2]
    assert s3.all_keys() == []


def test_slow_answers_are_waited_for_and_those_that_do_not_come_asked_for_again(
    s3: Store, short_wait: None
) -> None:
    folder = Folder.open(f"{s3.url}/a")
    (folder / "b").write_text("1")
    slow = s3.proxy.inject("delay", method="GET", seconds=0.1)
    late = s3.proxy.inject("delay", method="GET", seconds=1.5)
    assert (folder / "b").read_bytes() == b"1"
    assert (slow.hits, late.hits) == (1, 0)
    assert (folder / "b").read_bytes() == b"1"
    assert late.hits == 1
    never = s3.proxy.inject("delay", method="GET", seconds=1.5, times=None)
    with pytest.raises(StorageError, match="no complete answer"):
        (folder / "b").read_bytes()
    assert never.hits == ATTEMPTS


@pytest.mark.parametrize("action", ["truncate", "shorten"])
def test_row_groups_are_whole_or_an_error(s3: Store, folder: Folder, action: str) -> None:
    table = pa.table({"x": np.random.default_rng(2).random(600_000)})  # 4.8 MB
    file = folder / "t"
    file.write_table(table, row_group_size=200_000)
    with pq.ParquetFile(file.path, filesystem=file.fs) as parquet:
        once = s3.proxy.inject(action, method="GET")  # type: ignore[arg-type]
        assert parquet.read_row_group(1) == table.slice(200_000, 200_000)
        assert once.hits == 1
        always = s3.proxy.inject(action, method="GET", times=None)  # type: ignore[arg-type]
        with pytest.raises(StorageError, match="no complete answer") as caught:
            parquet.read_row_group(2)
    assert caught.value.where == str(file) and always.hits == ATTEMPTS


@pytest.mark.parametrize("action", ["slow_down", "drop", "truncate"])
def test_attempts_are_bounded(s3: Store, folder: Folder, action: str) -> None:
    (folder / "b").write_text("1234")
    s3.proxy.clear()
    s3.proxy.inject(action, method="GET", times=None)  # type: ignore[arg-type]
    with pytest.raises(StorageError) as caught:
        (folder / "b").read_bytes()
    assert f"get_object, {ATTEMPTS} attempts" in caught.value.what
    assert caught.value.where == str(folder / "b")
    assert ATTEMPTS <= s3.proxy.count("GET") <= 2 * ATTEMPTS  # with those of aiohttp


def test_what_would_not_help_is_not_tried_again(s3: Store, folder: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        (folder / "none").read_bytes()
    assert s3.proxy.count() == 1
    s3.proxy.inject("deny", times=None)
    with pytest.raises(StorageError):
        (folder / "none").read_bytes()
    assert s3.proxy.count() == 2


@pytest.mark.parametrize("action", ["slow_down", "drop", "lose_answer"])
def test_a_lost_part_is_sent_again(s3: Store, folder: Folder, action: str) -> None:
    fault = s3.proxy.inject(action, method="PUT", key="*partNumber=2*")  # type: ignore[arg-type]
    (folder / "big").write_bytes(DATA)
    assert fault.hits == 1 and s3.proxy.count("PUT", "*partNumber*") == 4
    assert (folder / "big").read_bytes() == DATA


def test_parquet_in_parts_with_a_lost_one_is_whole(s3: Store, folder: Folder) -> None:
    table = pa.table({"x": np.frombuffer(DATA[: len(DATA) // 8 * 8], np.int64)})
    fault = s3.proxy.inject("drop", method="PUT", key="*partNumber=3*")
    (folder / "t").write_table(table, compression="none", use_dictionary=False)
    assert fault.hits == 1 and (folder / "t").read_table() == table


def test_a_completed_upload_whose_answer_was_lost_is_complete(s3: Store, folder: Folder) -> None:
    fault = s3.proxy.inject("lose_answer", method="POST", key="*?uploadId=*")
    (folder / "big").write_bytes(DATA)
    assert fault.hits == 1 and (folder / "big").size() == len(DATA)


@pytest.mark.parametrize("how", ["at once", "as a stream"])
def test_nothing_is_visible_if_a_part_does_not_arrive(s3: Store, folder: Folder, how: str) -> None:
    s3.proxy.inject("drop", method="PUT", key="*partNumber=2*", times=None)
    with pytest.raises(StorageError) as caught:
        if how == "at once":
            (folder / "big").write_bytes(DATA)
        else:
            place = folder / "big"
            with place.fs.open_output_stream(place.path) as sink:
                for i in range(0, len(DATA), 1 << 20):
                    sink.write(DATA[i : i + (1 << 20)])
    assert "upload_part" in caught.value.what and caught.value.where == str(folder / "big")
    assert s3.all_keys() == [] and no_uploads(s3)


def test_the_old_object_stays_until_the_new_one_is_whole(s3: Store, folder: Folder) -> None:
    (folder / "big").write_text("old")
    s3.proxy.inject("deny", method="POST", key="*?uploadId=*")
    with pytest.raises(StorageError):
        (folder / "big").write_bytes(DATA)
    assert (folder / "big").read_bytes() == b"old" and no_uploads(s3)


def test_a_stream_that_nobody_closed_is_no_object(s3: Store, folder: Folder) -> None:
    for size in (10, 10_000_000):
        sink = folder.fs.open_output_stream((folder / "a").path)
        sink.write(DATA[:size])
        del sink
    assert s3.all_keys() == []


@pytest.mark.parametrize("with_parts", [False, True])
def test_a_killed_writer_leaves_no_object(s3: Store, folder: Folder, with_parts: bool) -> None:
    code = (
        "import os, signal, sys\n"
        "from p5dist.storage import Folder\n"
        "place = Folder.open(sys.argv[1])\n"
        "sink = place.fs.open_output_stream(place.path)\n"
        "sink.write(bytes(int(sys.argv[2])))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    size = 20_000_000 if with_parts else 1000
    done = subprocess.run([sys.executable, "-c", code, str(folder / "a"), str(size)])
    assert done.returncode == -signal.SIGKILL
    assert no_uploads(s3) != with_parts  # parts were sent, and are not an object
    assert s3.all_keys() == [] and not (folder / "a").exists()


def test_keys_that_are_not_deleted_are_an_error(s3: Store, folder: Folder) -> None:
    (folder / "b").write_text("1")
    refusal = (
        "<DeleteResult><Error><Key>runs/a/b</Key><Code>AccessDenied</Code>"
        "<Message>Access Denied</Message></Error></DeleteResult>"
    )
    s3.proxy.inject("answer", method="POST", key="*?delete*", body=refusal.encode())
    with pytest.raises(StorageError, match="denies access") as caught:
        folder.remove()
    assert caught.value.where == str(folder / "b") and "s3:DeleteObject" in (caught.value.fix or "")
