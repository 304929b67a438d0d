"""The source distribution and the wheel: built, installed in a fresh environment, used outside of
the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import p5dist
from p5dist.config import own_jobs

ROOT = Path(__file__).parent.parent


def test_jobs_of_p5dist_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"ml-100k", "beauty-and-sports/both"} <= set(own_jobs.names())
    assert p5dist.Job.from_file("ml-100k").name == "ml-100k"
    monkeypatch.chdir(tmp_path)
    Path("ml-100k").write_text("name: mine")
    assert own_jobs.find("ml-100k") == Path("ml-100k"), "a file comes first"
    with pytest.raises(p5dist.P5Error, match="name of a job of p5dist: beauty"):
        p5dist.Job.from_file("no such job")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions."""
    out = tmp_path_factory.mktemp("dist")
    call = [sys.executable, "-m", "build", "--outdir", str(out)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The command p5dist of an environment with the wheel. Its dependencies are the packages of the
    present environment, so that nothing of several GB is installed again."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wheel = next(built.glob("*.whl"))
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, cwd=folder, env=_environment())
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    yield folder / "bin/p5dist"


@pytest.mark.slow
def test_the_distributions_carry_jobs_types_and_licence(built: Path) -> None:
    name = f"p5dist-{p5dist.__version__}"
    with zipfile.ZipFile(built / f"{name}-py3-none-any.whl") as wheel:
        files = set(wheel.namelist())
    jobs = {f"p5dist/jobs/{job}.yaml" for job in own_jobs.names()}
    assert jobs | {"p5dist/py.typed", f"{name}.dist-info/licenses/LICENSE"} <= files
    assert not [file for file in files if file.startswith(("tests", "docs"))]
    with tarfile.open(built / f"{name}.tar.gz") as source:
        files = set(source.getnames())
    assert {f"{name}/{file}" for file in ("README.md", "CHANGELOG.md", "docs/README.md")} <= files


@pytest.mark.slow
def test_the_wheel_works_outside_of_the_clone(
    installed: Path, real_data: Path, tmp_path: Path
) -> None:
    environment = _environment()

    def call(*words: str) -> str:
        done = subprocess.run(
            [str(installed), *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert call("--version").strip() == p5dist.__version__
    call("doctor")
    data = [f"prepare.source.files={real_data}/ml-100k/u.data", "prepare.items=null"]
    data += ["prepare.users=null", "model.item_attributes=[]", "model.user_attributes=[]"]
    short = ["pretrain.epochs=1", "finetune.rating.epochs=1", "scale.workers=1"]
    said = call("run", "ml-100k", *data, *short)
    assert "943 targets" in said
    assert (tmp_path / "runs/ml-100k/report.html").exists()


def _environment() -> dict[str, str]:
    """Without the variables that lead Python to the clone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
