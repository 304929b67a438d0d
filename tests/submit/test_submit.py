"""p5dist submit and jobs against a server that records its requests."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from p5dist.cli.main import app
from p5dist.config import parse_job
from p5dist.errors import ClusterError, ConfigError, RunFolderError
from p5dist.submit import follow
from p5dist.submit.client import RAY, JobServer
from tests.submit.fake_server import FakeServer, running

JOB = """
name: shop
storage: s3://bucket/runs
prepare: {source: {files: s3://bucket/log/*.csv, columns: {timestamp: time}}}
pretrain: {steps: 10, batch_size: 64}
"""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as fake:
        yield fake


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(JOB)
    return path


def command(server: FakeServer, *words: str, ok: bool = True) -> Result:
    result = CliRunner().invoke(app, [*map(str, words), "--address", server.address])
    if ok:
        assert result.exit_code == 0, result.output
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_what_is_sent_is_the_package_and_the_resolved_job(server: FakeServer, job: Path) -> None:
    command(server, "submit", str(job), "pretrain", "pretrain.steps=20")
    (request,) = server.requests
    assert request["entrypoint"] == (
        "exec /opt/venv/bin/python -u -m p5dist.cli run job.yaml pretrain"
    )
    assert request["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert request["metadata"]["p5dist_run"] == "s3://bucket/runs/shop"
    assert "entrypoint_num_cpus" not in request
    name = request["runtime_env"]["working_dir"].removeprefix("gcs://")
    archive = zipfile.ZipFile(io.BytesIO(server.packages[name]))
    names = set(archive.namelist())
    assert {"job.yaml", "p5dist/cli/main.py", "p5dist/report/page.html.j2"} <= names
    assert all(n == "job.yaml" or n.startswith("p5dist/") for n in names)
    assert not [n for n in names if "__pycache__" in n or "/." in n]
    sent = parse_job(archive.read("job.yaml").decode())
    assert sent.scale.address == "auto"
    assert sent.pretrain is not None and sent.pretrain.steps == 20


def test_submitting_twice_runs_once(server: FakeServer, job: Path) -> None:
    first = json.loads(command(server, "submit", str(job), "--json").stdout)
    second = command(server, "submit", str(job))
    assert len(server.requests) == 1
    assert f"{first['id']} already exists (RUNNING)" in second.stderr
    assert f"p5dist jobs logs -f {first['id']}" in second.stderr.replace("\n", " ")
    server.finish("SUCCEEDED")
    assert "has finished; nothing was submitted" in command(server, "submit", str(job)).stderr
    assert len(server.requests) == 1
    assert server.uploads == 1


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_what_failed_is_submitted_again_with_a_number(
    server: FakeServer, job: Path, status: str
) -> None:
    for _ in range(3):
        command(server, "submit", str(job))
        server.finish(status)
    ids = [request["submission_id"] for request in server.requests]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]
    assert ids[0].startswith("shop-")
    assert server.uploads == 1, "the same package is sent once"


def test_what_has_finished_is_submitted_again_if_asked(server: FakeServer, job: Path) -> None:
    command(server, "submit", str(job))
    server.finish("SUCCEEDED")
    command(server, "submit", str(job), "--again")
    assert len(server.requests) == 2


def test_another_job_in_the_same_run_folder_is_refused(server: FakeServer, job: Path) -> None:
    command(server, "submit", str(job))
    with pytest.raises(RunFolderError, match="another job works in this run folder"):
        command(server, "submit", str(job), "scale.workers=2", ok=False)
    command(server, "submit", str(job), "name=other")
    server.jobs[0]["status"] = "STOPPED"
    command(server, "submit", str(job), "scale.workers=2")
    assert len(server.requests) == 3


def test_the_driver_may_reserve_resources_and_the_image_may_have_the_package(
    server: FakeServer, job: Path
) -> None:
    command(
        server, "submit", str(job), "--image-has-package", "--driver-cpus", "1.5",
        "--driver-memory-gb", "2", "--python", "/usr/bin/python3",
    )  # fmt: skip
    (request,) = server.requests
    assert request["entrypoint_num_cpus"] == 1.5
    assert request["entrypoint_memory"] == 2 << 30
    assert request["entrypoint"].startswith("exec /usr/bin/python3 -u")
    (archive,) = server.packages.values()
    assert zipfile.ZipFile(io.BytesIO(archive)).namelist() == ["job.yaml"]


def test_a_dry_run_sends_nothing(server: FakeServer, job: Path) -> None:
    shown = json.loads(command(server, "submit", str(job), "--dry-run", "--json").stdout)
    assert not server.requests and not server.packages
    assert shown["request"]["submission_id"].startswith("shop-")
    assert yaml.safe_load(shown["job"])["name"] == "shop"


def test_relative_paths_become_absolute_on_this_machine_only(
    server: FakeServer, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job.parent)
    relative = ("storage=runs", "prepare.source.files=[a.csv, dataset:ml-100k/u.data]")
    with pytest.raises(ConfigError, match=r"relative path(.|\n)*storage(.|\n)*s3://BUCKET"):
        command(server, "submit", str(job), *relative, ok=False)
    server.hosts = [socket.gethostname()]
    dry = command(server, "submit", str(job), *relative, "--dry-run", "--json")
    sent = yaml.safe_load(json.loads(dry.stdout)["job"])
    assert sent["storage"] == str(job.parent / "runs")
    assert sent["prepare"]["source"]["files"] == [
        str(job.parent / "a.csv"), "dataset:ml-100k/u.data"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "setting",
    ["prepare.split={kind: given, test: held/out.csv}",
     "feed={lanes: 8, mix: {books: {data: held/books}}}",
     "pretrain.init_from=held/books/pretrain",
     "finetune={next: {task: {kind: next_item}, steps: 1, batch_size: 64, init_from: held/b/c}}"],
)  # fmt: skip
def test_every_path_of_a_job_is_looked_at(server: FakeServer, job: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=r"relative path(.|\n)*held/"):
        command(server, "submit", str(job), setting, ok=False)
    assert not server.requests


def test_a_stage_of_the_job_to_start_from_is_no_path(server: FakeServer, job: Path) -> None:
    task = "finetune={next: {task: {kind: next_item}, steps: 1, batch_size: 64}}"
    command(server, "submit", str(job), task, "finetune.next.init_from=pretrain")
    assert len(server.requests) == 1


def test_local_folders_on_several_hosts_are_pointed_out(server: FakeServer, job: Path) -> None:
    server.hosts = ["head", "other"]
    shown = command(server, "submit", str(job), "storage=/shared/runs", "--dry-run")
    assert "every node must see the same folders" in shown.stderr
    assert "/shared/runs" in shown.stderr
    assert "every node" not in command(server, "submit", str(job), "--dry-run").stderr


@pytest.mark.parametrize(
    "setting",
    ["storage=s3://AKIAABCDEFGHIJKLMNOP:planted@bucket/runs",
     "prepare.source.files=[ftp://user:planted@host/log.csv]",
     "prepare.source.files=https://host/log.csv?X-Amz-Signature=planted"],
)  # fmt: skip
def test_a_job_with_a_secret_is_not_sent(server: FakeServer, job: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="the job file contains a secret") as caught:
        command(server, "submit", str(job), setting, ok=False)
    assert "planted" not in str(caught.value)
    assert not server.requests and not server.packages


def test_credentials_of_the_environment_are_not_sent(
    server: FakeServer, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted-token")
    server.token = "planted-token"
    command(server, "submit", str(job))
    (archive,) = server.packages.values()
    zipped = zipfile.ZipFile(io.BytesIO(archive))
    sent = json.dumps(server.requests) + zipped.read("job.yaml").decode()
    assert "planted" not in sent


def test_a_token_is_asked_for(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.token = "right"
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ClusterError, match=r"needs a token(.|\n)*RAY_AUTH_TOKEN"):
        JobServer(server.address).check()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(ClusterError, match="needs another token"):
        JobServer(server.address).check()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert JobServer(server.address).check() == "2.60.0"


def test_no_server_another_version_and_a_wrong_address(server: FakeServer) -> None:
    with pytest.raises(ClusterError, match=r"no job server answers(.|\n)*refused"):
        JobServer("http://127.0.0.1:1").check()
    with pytest.raises(ClusterError, match="not the address of a job server"):
        JobServer("ray://head:10001")
    server.version = "2.9.3"
    with pytest.raises(ClusterError, match=r"another release of Ray(.|\n)*2\.9\.3(.|\n)*2\.60"):
        JobServer(server.address).check()


def test_the_release_of_ray_is_that_of_the_dependencies() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'"ray[data,default,train]=={RAY}.0"' in project.read_text()


def test_jobs_are_listed_and_stopped_and_an_unknown_id_is_an_error(
    server: FakeServer, job: Path
) -> None:
    id = json.loads(command(server, "submit", str(job), "--json").stdout)["id"]
    assert f"{id} " in command(server, "jobs", "list").stdout
    assert "STOPPED" in command(server, "jobs", "stop", id).stdout
    assert command(server, "jobs", "status", id, ok=False).exit_code == 143
    with pytest.raises(ClusterError, match=r"no such job(.|\n)*nobody"):
        command(server, "jobs", "status", "nobody", ok=False)


def test_waiting_prints_the_log_and_gives_the_exit_code(
    server: FakeServer, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.log = "first\nsecr"

    def later(_: float) -> None:
        server.log = "first\nsecret=planted\nthe error\n"
        server.finish("FAILED")

    monkeypatch.setattr(follow.time, "sleep", later)
    result = command(server, "submit", str(job), "--follow", ok=False)
    assert result.exit_code == 1
    assert result.stdout == "first\nsecret=•••\nthe error\n"
    assert "FAILED" in result.stderr
    status = command(server, "jobs", "status", server.jobs[0]["submission_id"], ok=False)
    assert status.exit_code == 1
    assert "the error" in status.stdout and "planted" not in status.stdout


def test_submitting_needs_neither_torch_nor_ray(server: FakeServer, job: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'torchrec', 'fbgemm_gpu', 'ray'): sys.modules[name] = None\n"
        "from p5dist.cli.main import main\n"
        f"sys.argv = ['p5dist', 'submit', {str(job)!r}, '--address', {server.address!r}]\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == 1
