"""Input files that differ from the files that the data was prepared from are noticed."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p5dist import pipeline
from p5dist.cli.main import app
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.environment.processes import Processes
from p5dist.errors import RunFolderError
from p5dist.observe.stages import progress
from p5dist.observe.status import read
from p5dist.prepare.inputs import Differences, differences
from p5dist.prepare.stage import run
from p5dist.storage import RunFolder
from tests.prepare.runs import make_job, processes
from tests.s3 import Store

HEADER = "user,item,rating,timestamp\n"


def line(user: str, item: str) -> str:
    return f"{user},{item},1,1000\n"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.csv").write_text(HEADER + rows)


def prepare(job: RunConfig) -> Manifest:
    return run(job, RunFolder.of(job.storage, job.name), processes())


def now(job: RunConfig) -> Differences:
    return differences(job.prepare, Manifest.read(RunFolder.of(job.storage, job.name).prepare))


@pytest.fixture
def job(tmp_path: Path) -> RunConfig:
    """A job over logs/a.csv and logs/b.csv, with a table of items; prepared."""
    write(tmp_path / "logs", a=line("u", "x") + line("u", "y"), b=line("v", "x"))
    (tmp_path / "items.csv").write_text("id,title\nx,X\ny,Y\n")
    items = {"files": f"{tmp_path}/items.csv", "id": "id", "title": "title"}
    made = make_job(tmp_path, {"files": f"{tmp_path}/logs/*.csv"}, items=items)
    prepare(made)
    return made


def test_the_manifest_names_every_input(job: RunConfig, tmp_path: Path) -> None:
    files = [tmp_path / "logs/a.csv", tmp_path / "logs/b.csv", tmp_path / "items.csv"]
    found = Manifest.read(RunFolder.of(job.storage, job.name).prepare).inputs
    assert [f.url for f in found] == [str(f) for f in files]
    assert [f.setting for f in found] == ["prepare.source.files"] * 2 + ["prepare.items.files"]
    assert [f.bytes for f in found] == [len(f.read_bytes()) for f in files]
    assert [f.version for f in found] == [str(f.stat().st_mtime_ns) for f in files]
    assert not now(job) and now(job).unseen == ()


def test_added_removed_and_changed_files(job: RunConfig, tmp_path: Path) -> None:
    write(tmp_path / "logs", c=line("w", "x"))
    (tmp_path / "logs/_d.csv").write_text(HEADER)  # hidden
    (tmp_path / "logs/b.csv").unlink()
    a = tmp_path / "logs/a.csv"
    a.write_text(a.read_text().replace("u,y", "u,z"))  # the same size
    os.utime(a, ns=(1, 1))
    (tmp_path / "items.csv").write_text("id,title\nx,X2\ny,Y\n")
    logs = tmp_path / "logs"
    assert now(job) == Differences(
        added=(f"{logs}/c.csv",), removed=(f"{logs}/b.csv",),
        changed=(f"{logs}/a.csv", f"{tmp_path}/items.csv"),
    )  # fmt: skip


def test_a_touched_file_is_no_change(job: RunConfig, tmp_path: Path) -> None:
    os.utime(tmp_path / "logs/a.csv", ns=(1, 1))
    assert not now(job)


def test_files_that_are_all_gone_are_no_change(job: RunConfig, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "logs")
    assert not now(job)
    assert now(job).unseen == ("prepare.source.files",)
    assert pipeline.run(job, ["prepare"])["prepare"]["rows_in"] == 3


def test_a_job_that_moved_with_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, another parent folder, other times; one file is really changed."""
    first = tmp_path / "first"
    first.mkdir()
    write(first / "logs", a=line("u", "x"), b=line("v", "x"))
    monkeypatch.chdir(first)
    job = make_job(Path("runs"), {"files": "logs/*.csv"})
    prepare(job)
    second = tmp_path / "second"
    monkeypatch.chdir(tmp_path)
    first.rename(second)
    monkeypatch.chdir(second)
    for file in Path("logs").iterdir():
        os.utime(file, ns=(1, 1))
    assert not now(job) and not now(job).unseen
    (second / "logs/b.csv").write_text(HEADER + line("v", "xx"))
    assert now(job).changed == (f"{second}/logs/b.csv",)


def test_the_stage_ends_with_an_error_until_the_job_says_what_to_do(
    job: RunConfig, tmp_path: Path
) -> None:
    write(tmp_path / "logs", c=line("w", "x"))
    with pytest.raises(RunFolderError, match=r"(?s)added: .*logs/c.csv.*--fresh.*=keep"):
        pipeline.run(job, ["prepare"])
    first = progress(job, RunFolder.of(job.storage, job.name), [])[0]
    assert (first.state, first.notes) == ("outdated", (f"added: {tmp_path}/logs/c.csv",))
    keep = job.model_copy(
        update={"prepare": job.prepare.model_copy(update={"changed_inputs": "keep"})}
    )
    assert pipeline.run(keep, ["prepare"])["prepare"]["rows_in"] == 3
    assert pipeline.run(job, ["prepare"], fresh=True)["prepare"]["rows_in"] == 4
    assert pipeline.run(job, ["prepare"])["prepare"]["rows_in"] == 4


def test_status_says_it_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "logs", a=line("u", "x"))
    monkeypatch.chdir(tmp_path)
    job = make_job(Path(), {"files": "logs/*.csv"})
    pipeline.run(job, ["prepare"])
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere/logs", other=line("v", "y"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read(str(tmp_path / "run")).stages["prepare"] == "complete"
    write(tmp_path / "logs", b=line("v", "x"))
    status = read(str(tmp_path / "run"))
    assert status.stages["prepare"] == "outdated"
    assert status.inputs == (f"added: {tmp_path}/logs/b.csv",)
    shown = CliRunner().invoke(app, ["status", str(tmp_path / "run")]).stdout
    assert "input files added" in shown


def test_object_storage_compares_etags(tmp_path: Path, s3: Store) -> None:
    def put(key: str, rows: str) -> None:
        s3.client().put_object(Bucket=s3.bucket, Key=f"log/{key}.csv", Body=HEADER + rows)

    put("a", line("u", "x"))
    put("b", line("v", "x"))
    job = make_job(tmp_path, {"files": f"{s3.url}/log"})
    with closing(
        Processes("prepare", 1)
    ) as workers:  # with the address of the store in their environment
        manifest = run(job, RunFolder.of(job.storage, job.name), workers)
    etag = s3.client().head_object(Bucket=s3.bucket, Key="log/a.csv")["ETag"]
    assert manifest.inputs[0].version == etag.strip('"')
    put("a", line("u", "x"))  # uploaded again
    assert not now(job)
    put("a", line("u", "y"))  # the same size
    put("c", line("w", "x"))
    assert now(job) == Differences(added=(f"{s3.url}/log/c.csv",), changed=(f"{s3.url}/log/a.csv",))
    s3.proxy.inject("deny", times=None)
    assert now(job) == Differences(unseen=("prepare.source.files",)), "denied to this machine"
