"""The installer: its decisions, its continuation after an interruption, and packaging."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """install.py with an empty .venv elsewhere, and commands written to ``ran``, not run."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    module.VENV, module.PYTHON = venv, venv / "bin" / "python"
    module.STAMP = venv / "p5dist-installed"
    module.ran = []
    monkeypatch.setattr(module, "run", lambda *words: module.ran.append(" ".join(map(str, words))))
    monkeypatch.setattr(module, "cpu_index", lambda: ())
    monkeypatch.setattr(sys, "argv", ["install.py", "--wheels", "cpu"])
    return module


def _dist(installer: ModuleType, name: str, *, whole: bool) -> Path:
    info = next(installer.VENV.glob("lib/*/site-packages")) / f"{name}.dist-info"
    info.mkdir()
    (info / "METADATA").touch()
    if whole:
        (info / "INSTALLER").touch()
    return Path(info)


def test_installs_once_and_again_only_when_something_changed(installer: ModuleType) -> None:
    installer.main()
    first = list(installer.ran)
    assert any("install -qq" in words and "torch==" in words for words in first)
    assert any(words.endswith("--editable .[cpu,dev]") for words in first)
    assert re.search(r"--no-deps torchrec==1\.8\.0$", first[-2])
    assert "import fbgemm_gpu, torchrec" in first[-1]
    installer.main()
    assert installer.ran == first
    installer.STAMP.write_text(installer.stamp("gpu"))
    installer.main()
    assert len(installer.ran) == 2 * len(first)


def test_an_interrupted_install_is_not_taken_for_a_whole_one(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer.STAMP.write_text("of an older pyproject.toml")

    def interrupted(*args: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(installer, "pip_install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        installer.main()
    assert not installer.STAMP.exists()


def test_half_installed_packages_are_installed_again(installer: ModuleType) -> None:
    whole, half = (_dist(installer, n, whole=n == "rich-15.0") for n in ("rich-15.0", "ray-2.60"))
    leftover = half.parent / "~umpy"
    leftover.mkdir()
    installer.forget_half_installed()
    assert whole.exists() and not half.exists() and not leftover.exists()


@pytest.mark.parametrize(("wheels", "removed"), [("cpu", False), ("gpu", True)])
def test_the_other_fbgemm_is_removed(installer: ModuleType, wheels: str, removed: bool) -> None:
    _dist(installer, "fbgemm_gpu_cpu-1.8.0", whole=True)
    installer.install(wheels)
    assert any("uninstall" in words for words in installer.ran) == removed


def test_aarch64_gets_the_cpu_set(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(installer.platform, "machine", lambda: "x86_64")
    assert installer.has_nvidia_driver()
    monkeypatch.setattr(installer.platform, "machine", lambda: "aarch64")
    assert not installer.has_nvidia_driver()


def test_python_that_cannot_work_is_told_so(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv"):
        installer.make_venv()
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"needs 3\.10 to 3\.13\n  fix: "):
        installer.check_machine()


def test_every_file_of_the_package_is_packaged() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "p5dist"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    line = next(x for x in (ROOT / "pyproject.toml").read_text().splitlines() if "**/*.css" in x)
    endings = {".py", *re.findall(r"\*\*/\*(\.\w+)", line)}
    assert '"py.typed"' in line
    others = set(listed) - {"p5dist/py.typed", "p5dist/jobs"}  # a link to jobs/, all of it YAML
    assert {Path(name).suffix for name in others} <= endings
    jobs = [f for f in (ROOT / "jobs").rglob("*") if f.is_file()]
    assert jobs and {file.suffix for file in jobs} <= endings
