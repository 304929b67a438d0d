"""p5dist doctor on broken installations, simulated by package metadata."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from p5dist.environment import doctor
from p5dist.environment.doctor import Check
from tests.s3 import Store

ROOT = Path(__file__).parent.parent.parent
GOOD = {
    "torch": "2.13.0+cpu", "torchrec": "1.8.0", "torchmetrics": "1.0.3", "ray": "2.60.0",
    "pyarrow": "26.0.1", "s3fs": "2026.9.0", "fbgemm-gpu-cpu": "1.8.0",
}  # fmt: skip
Install = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Install:
    """``installed(torch="2.12.0", s3fs=None)``: the good set with these changes."""

    def fake(**changes: str | None) -> None:
        packages = GOOD | {name.replace("_", "-"): v for name, v in changes.items()}

        def version(name: str) -> str:
            found = packages.get(name)
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(metadata, "version", version)

    fake()
    return fake


def _bad(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found if check.ok != "ok"}


def test_the_good_set_is_good(installed: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_driver_version", lambda: None)
    assert not _bad([*doctor.packages(), doctor.fbgemm(), doctor.driver()])
    installed(torch="2.13.0", fbgemm_gpu_cpu=None, fbgemm_gpu="1.8.0", pyarrow="25.0.1")
    monkeypatch.setattr(doctor, "_driver_version", lambda: "580.65.06")
    assert not _bad([*doctor.packages(), doctor.fbgemm(), doctor.driver()])


def test_mismatched_and_missing_versions_name_the_right_one(installed: Install) -> None:
    installed(torch="2.12.1", ray="2.6.0", pyarrow="24.0.0", s3fs=None)
    bad = _bad(doctor.packages())
    assert set(bad) == {"torch", "ray", "pyarrow", "s3fs"}
    assert all(check.ok == "fail" for check in bad.values())
    assert bad["torch"].detail == "2.12.1" and "2.13.0" in bad["torch"].fix
    assert "25.* or 26.*" in bad["pyarrow"].fix
    assert bad["s3fs"].detail == "not installed" and "2026.9.*" in bad["s3fs"].fix


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fbgemm_gpu": "1.8.0"}, "overwritten"),
        ({"fbgemm_gpu_cpu": None}, "not installed"),
        ({"fbgemm_gpu_cpu": "1.7.0"}, "1.7.0"),
        ({"fbgemm_gpu_cpu": None, "fbgemm_gpu": "1.8.0"}, "installed CPU build"),
    ],
)
def test_fbgemm_that_cannot_load(
    installed: Install, changes: dict[str, str | None], said: str
) -> None:
    installed(**changes)
    check = doctor.fbgemm()
    assert check.ok == "fail" and said in check.detail and check.fix


@pytest.mark.parametrize(
    ("cuda", "version", "ok"),
    [
        (True, None, "fail"),  # no driver for the CUDA build: it does not load
        (True, "", "warn"),  # a driver that does not answer
        (True, "570.86.10", "warn"),  # older than CUDA 13 needs
        (True, "590.44", "ok"),
        (False, None, "ok"),
    ],
)
def test_driver_against_wheel(
    installed: Install, monkeypatch: pytest.MonkeyPatch, cuda: bool, version: str | None, ok: str
) -> None:
    if cuda:
        installed(fbgemm_gpu_cpu=None, fbgemm_gpu="1.8.0")
    monkeypatch.setattr(doctor, "_driver_version", lambda: version)
    check = doctor.driver()
    assert check.ok == ok and bool(check.fix) == (ok != "ok")


def test_unused_gpu_is_told(installed: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_driver_version", lambda: "590.44")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert doctor.driver().ok == "warn" and "GPUs are not used" in doctor.driver().fix
    monkeypatch.setattr("platform.machine", lambda: "aarch64")  # no CUDA build to install
    assert doctor.driver().ok == "ok"


def test_host_name_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolves_to(address: str) -> None:
        answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a: answer)

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    resolves_to("127.0.1.1")
    assert doctor._host().ok == "warn" and "GLOO_SOCKET_IFNAME" in doctor._host().fix
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert doctor._host().ok == "ok"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    resolves_to("10.0.0.7")
    assert doctor._host().ok == "ok"


def test_storage_is_written_read_and_left_clean(tmp_path: Path) -> None:
    assert doctor._storage(str(tmp_path / "runs")).ok == "ok"
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    for url in (str(tmp_path / "file" / "runs"), "nosuchscheme://bucket/runs"):
        check = doctor._storage(url)
        assert check.ok == "fail" and url in check.detail and check.fix


def test_storage_that_fails_is_told_in_full(s3: Store) -> None:
    assert doctor._storage(f"{s3.url}/runs").ok == "ok" and s3.all_keys() == []
    check = doctor._storage(f"{s3.url}x/runs")
    assert check.ok == "fail" and "no such bucket" in check.detail
    assert (
        f"where: {s3.url}x/runs/.p5dist-doctor" in check.detail and "NoSuchBucket" in check.detail
    )


def test_processes_that_fail_or_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._try("raise OSError('libnvidia-ml.so.1: no such file')") == (
        "OSError: libnvidia-ml.so.1: no such file"
    )
    assert doctor._try("import os; os.abort()") == "ended with exit code -6"
    monkeypatch.setattr(doctor, "_SECONDS", 0.2)
    assert "no answer" in (doctor._try("import time; time.sleep(60)") or "")


@pytest.mark.parametrize(("ok", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_exit_code_and_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ok: str, code: int
) -> None:
    found = [Check("ray", ok, "seen [1/2]", "do this")]  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "checks", lambda storage: found)
    assert doctor.run("runs", True) == code
    assert json.loads(capsys.readouterr().out) == [
        {"name": "ray", "ok": ok, "detail": "seen [1/2]", "fix": "do this"}
    ]
    assert doctor.run("runs", False) == code
    assert re.search(rf"ray +{ok} +seen \[1/2\]\s+→ do this", capsys.readouterr().out)


def test_this_machine_gets_an_answer_for_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_ray", lambda: Check("start ray", "ok", "not tried here"))
    found = doctor.checks(str(tmp_path))
    assert len({check.name for check in found}) == len(found) >= 12
    assert all(check.fix for check in found if check.ok != "ok")
    assert all(check.detail for check in found)


def test_versions_are_those_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    pins = re.findall(r'"([\w-]+)(?:\[[\w,]+\])?([=<>][^"]+)"', text)
    wanted = {name: SpecifierSet(spec) for name, spec in pins}
    for name, fitting in doctor.FITTING.items():
        for version in fitting:
            assert wanted[name].contains(version + "1" if version.endswith(".") else version), name
    assert not wanted["pyarrow"].contains("24.0") and not wanted["pyarrow"].contains("27.0")
    assert wanted["fbgemm-gpu"] == wanted["fbgemm-gpu-cpu"] == SpecifierSet(f"=={doctor.FBGEMM}")
