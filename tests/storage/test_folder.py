"""Folder behaves the same on disk and on S3; on S3: fresh listings, few requests, no secrets."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from p5dist.errors import RunFolderError, StorageError
from p5dist.storage import Folder, RunFolder
from tests.s3 import KEY_ID, SECRET, Store


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder.open(str(tmp_path)) / "runs"
    return Folder.open(request.getfixturevalue("s3").url + "/some/runs/")


def test_what_is_written_is_read(folder: Folder) -> None:
    file = folder.make() / "a/b.txt"
    for data in (b"first", b"", bytes(range(256)) * 1000):
        file.write_bytes(data)
        assert (file.read_bytes(), file.size(), file.exists()) == (data, len(data), True)
    (folder / "c.json").write_json({"ü": [1, 2]})
    assert (folder / "c.json").read_json() == {"ü": [1, 2]}
    table = pa.table({"x": [1, 2, 3], "y": ["a", None, "c"]})
    (folder / "t.parquet").write_table(table)
    assert (folder / "t.parquet").read_table() == table
    assert (folder / "t.parquet").read_table(["y"]).column_names == ["y"]
    assert folder.children() == ["a", "c.json", "t.parquet"]


def test_a_file_and_its_name_survive_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content first, then the new name, then the names of new folders; intermediate files cost
    nothing."""
    synced: list[tuple[str, bool]] = []
    target = tmp_path / "run/stage/marker.json"

    def fsync(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").readlink()
        name = "content" if path.name.endswith(".tmp") else str(path.relative_to(tmp_path))
        synced.append((name, target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    file = Folder.open(str(target))
    file.write_bytes(b"x")
    assert synced == [("content", False), ("run/stage", True), ("run", True), (".", True)]
    synced.clear()
    file.write_bytes(b"y")
    assert [name for name, _ in synced] == ["content", "run/stage"]
    synced.clear()
    file.write_bytes(b"z", durable=False)
    assert synced == []


def test_what_is_not_there(folder: Folder) -> None:
    missing = folder / "a"
    missing.remove()
    assert (missing.exists(), missing.size(), missing.children()) == (False, None, [])
    with pytest.raises(FileNotFoundError):
        missing.read_bytes()
    with pytest.raises(FileNotFoundError):
        missing.fs.open_input_file(missing.path)


def test_a_folder_is_gone_when_removed_and_its_neighbours_stay(folder: Folder) -> None:
    for name in ("a/b/1", "a/b/c/2", "a/bc", "a/b.x"):
        (folder / name).write_text(name)
    (folder / "a/b").remove()
    assert (folder / "a").children() == ["b.x", "bc"]
    assert not (folder / "a/b").exists() and not (folder / "a/b/c/2").exists()
    (folder / "a/bc").remove()
    assert (folder / "a").children() == ["b.x"]
    assert (folder / "a/b.x").read_bytes() == b"a/b.x"


def test_names_are_taken_as_they_are(folder: Folder) -> None:
    names = ["a*", "a?b", "a[b]", "a b+c", "ab", "ü=1", "%41"]
    for name in names:
        (folder / name).write_text(name)
    assert folder.children() == sorted(names)
    (folder / "a*").remove()
    (folder / "a[b]").remove()
    assert folder.children() == sorted(set(names) - {"a*", "a[b]"})
    assert (folder / "%41").read_bytes() == b"%41"


def test_arrow_lists_and_reads_it(folder: Folder) -> None:
    for i in range(3):
        (folder / f"data/part-{i}.parquet").write_table(pa.table({"x": [i, 10 * i]}))
    inside = folder / "data"
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, recursive=True))
    assert sorted((i.base_name, i.type.name) for i in infos) == [
        ("data", "Directory"), *((f"part-{i}.parquet", "File") for i in range(3)),
    ]  # fmt: skip
    some = folder.fs.get_file_info([f"{inside.path}/part-{i}.parquet" for i in (2, 9)])
    assert [i.type.name for i in some] == ["File", "NotFound"]
    assert some[0].size == (inside / "part-2.parquet").size()
    assert some[0].mtime is not None
    values = ds.dataset(inside.path, filesystem=inside.fs).to_table()["x"].to_pylist()
    assert sorted(values) == [0, 0, 1, 2, 10, 20]
    with pytest.raises(FileNotFoundError):
        folder.fs.get_file_info(pafs.FileSelector(f"{folder.path}/none"))


def test_two_writers_leave_the_bytes_of_one(folder: Folder) -> None:
    file = folder / "result"
    versions = [b"1" * 300_000, b"2" * 500_000]
    file.write_bytes(versions[0])
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(lambda v=v: [file.write_bytes(v) for _ in range(15)])
                   for v in versions]  # fmt: skip
        seen = {file.read_bytes() for _ in range(30)}
        for writer in writers:
            writer.result()
    assert seen <= set(versions) and file.read_bytes() in versions
    assert folder.children() == ["result"]


def test_urls(s3: Store) -> None:
    place = RunFolder.of(f"{s3.url}/", "ml").prepare / "manifest.json"
    assert str(place) == f"{s3.url}/ml/prepare/manifest.json" and place.name == "manifest.json"
    place.write_text("x")
    assert s3.all_keys() == ["ml/prepare/manifest.json"]
    assert Folder.open(f"s3a://{s3.bucket}").children() == ["ml"]
    for url in ("s3://", "s3:///bucket/key"):
        with pytest.raises(RunFolderError, match="no bucket"):
            Folder.open(url)


def test_what_others_do_is_seen_at_once(s3: Store) -> None:
    folder, client = Folder.open(f"{s3.url}/a"), s3.client()
    assert folder.children() == [] and not (folder / "b").exists()
    client.put_object(Bucket=s3.bucket, Key="a/b", Body=b"1")
    assert folder.children() == ["b"] and (folder / "b").read_bytes() == b"1"
    client.put_object(Bucket=s3.bucket, Key="a/b", Body=b"22")
    assert (folder / "b").size() == 2 and (folder / "b").read_bytes() == b"22"
    client.delete_object(Bucket=s3.bucket, Key="a/b")
    assert not folder.exists() and folder.children() == []


def test_empty_objects_that_stand_for_folders_are_folders(s3: Store) -> None:
    for key in ("a/", "a/b/", "a/c"):
        s3.client().put_object(Bucket=s3.bucket, Key=key, Body=b"")
    folder = Folder.open(f"{s3.url}/a")
    assert folder.children() == ["b", "c"] and (folder / "b").exists()
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, recursive=True))
    assert sorted((i.base_name, i.is_file) for i in infos) == [("b", False), ("c", True)]
    folder.remove()
    assert s3.all_keys() == []


def test_more_keys_than_a_page_holds(s3: Store) -> None:
    client = s3.client()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(
            lambda i: client.put_object(Bucket=s3.bucket, Key=f"a/{i:04d}", Body=b""), range(1005)
        ))  # fmt: skip
    client.put_object(Bucket=s3.bucket, Key="ab", Body=b"")
    again = s3.proxy.inject("slow_down", key="*continuation-token*")
    folder = Folder.open(f"{s3.url}/a")
    assert folder.children() == [f"{i:04d}" for i in range(1005)] and again.hits == 1
    folder.remove()
    assert s3.all_keys() == ["ab"]


def test_removing_a_bucket_empties_it_and_no_more(s3: Store) -> None:
    folder = Folder.open(s3.url)
    (folder / "a/b").write_text("x")
    folder.make()
    folder.remove()
    assert s3.all_keys() == [] and folder.exists()


def test_a_folder_is_not_made_nor_is_a_bucket(s3: Store) -> None:
    folder = Folder.open(f"s3://{s3.bucket}x/a").make()
    (Folder.open(s3.url) / "b").make()
    assert s3.all_keys() == [] and folder.path == f"{s3.bucket}x/a"
    assert [b["Name"] for b in s3.client().list_buckets()["Buckets"]].count(f"{s3.bucket}x") == 0


def test_one_row_group_costs_about_its_bytes(s3: Store) -> None:
    table = pa.table({"x": np.random.default_rng(1).random(1_500_000)})  # 12 MB that do not shrink
    file = Folder.open(s3.url) / "t.parquet"
    file.write_table(table, row_group_size=50_000)
    s3.proxy.clear()
    with pq.ParquetFile(file.path, filesystem=file.fs) as parquet:
        assert parquet.num_row_groups == 30
        assert parquet.read_row_group(20) == table.slice(1_000_000, 50_000)
    assert s3.proxy.bytes_sent < 3_000_000
    assert s3.proxy.count() <= 5


def test_small_files_cost_one_request(s3: Store) -> None:
    file = Folder.open(s3.url) / "manifest.json"
    file.write_text("{}")
    assert s3.proxy.requests == [("PUT", f"{s3.bucket}/manifest.json")]
    file.read_bytes()
    assert s3.proxy.requests[1:] == [("GET", f"{s3.bucket}/manifest.json")]


def test_pickled_it_holds_no_credentials(s3: Store) -> None:
    folder = Folder.open(f"{s3.url}/a")
    (folder / "b").write_text("x")
    data = pickle.dumps(folder)
    assert KEY_ID.encode() not in data and SECRET.encode() not in data
    again = pickle.loads(data)
    assert again == folder and again.children() == ["b"]


def test_workers_of_ray_read_and_write(s3: Store, ray_session: None) -> None:
    import ray

    def copy(folder: Folder) -> tuple[int, list[str]]:
        (folder / "b").write_bytes((folder / "a").read_bytes() * 2)
        return Folder.open(str(folder)).fs.equals(folder.fs), folder.children()

    folder = Folder.open(f"{s3.url}/x")
    (folder / "a").write_text("12")
    assert ray.get(ray.remote(copy).remote(folder)) == (True, ["a", "b"])
    assert (folder / "b").read_bytes() == b"1212"


def test_json_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(StorageError, match="a file is damaged") as error:
        (Folder.open(str(tmp_path)) / "state.json").read_json()
    assert error.value.where == f"{tmp_path}/state.json"
