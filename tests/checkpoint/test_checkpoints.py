"""A checkpoint exists once its marker is written, and loads only if all its files are intact."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from p5dist.checkpoint.checkpoints import MARKER, Checkpoint, Checkpoints
from p5dist.checkpoint.saver import Saver
from p5dist.errors import CheckpointError
from p5dist.storage import Folder


def state(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((4, 3), float(value)), "b": torch.full((5,), float(value))}


def save(
    checkpoints: Checkpoints, step: int, state: dict[str, torch.Tensor], meta: dict[str, str]
) -> Checkpoint:
    saver = Saver(checkpoints, patience_s=0)
    saver.save(step, state, meta)
    saver.wait()
    return checkpoints.require()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Folder.open(str(tmp_path / "checkpoints")))


def test_what_is_loaded_is_what_was_saved(checkpoints: Checkpoints) -> None:
    save(checkpoints, 7, state(1.5), {"job": "x"})
    into = state(0)
    latest = checkpoints.require()
    latest.load(into)
    assert latest.step == 7
    assert latest.meta() == {"step": 7, "job": "x"}
    assert all(torch.equal(into[name], value) for name, value in state(1.5).items())


def test_only_the_newest_stay(checkpoints: Checkpoints) -> None:
    for step in (9, 10, 100):
        save(checkpoints, step, state(step), {})
    assert [c.step for c in checkpoints.all()] == [10, 100]
    assert checkpoints.folder.children() == ["step-00000010", "step-00000100"]


def test_a_folder_without_marker_is_no_checkpoint(checkpoints: Checkpoints) -> None:
    save(checkpoints, 5, state(5), {})
    save(checkpoints, 10, state(10), {})
    (checkpoints.folder / "step-00000010" / MARKER).remove()
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 5
    # The step is taken again, and what was left of it does not disturb or stay.
    folder = Path(checkpoints.at(10).path)
    left = [folder / name for name in ("1-00001.safetensors", "1-00001.json", ".1-00002.12ab.tmp")]
    for path in left:
        path.write_bytes(b"of an attempt that was lost")
    save(checkpoints, 10, state(11), {})
    assert not any(path.exists() for path in left)
    into = state(0)
    checkpoints.require().load(into)
    assert into["a"][0, 0] == 11


def test_no_complete_checkpoint_says_what_is_there(checkpoints: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoints.require()
    save(checkpoints, 5, state(5), {})
    (checkpoints.folder / "step-00000005" / MARKER).remove()
    with pytest.raises(CheckpointError, match=r"step-00000005 without complete\.json"):
        checkpoints.require()


def test_a_truncated_file_is_found_before_anything_is_loaded(checkpoints: Checkpoints) -> None:
    saved = save(checkpoints, 5, state(5), {})
    (file,) = (f for f in Path(saved.folder.path).iterdir() if f.suffix == ".safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    into = state(0)
    with pytest.raises(CheckpointError, match=r"truncated(.|\n)*safetensors(.|\n)*delete"):
        saved.load(into)
    assert torch.equal(into["a"], state(0)["a"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": torch.zeros(4, 3), "c": torch.zeros(2)}, "c"),
        ({"a": torch.zeros(4, 4)}, r"[Ss]ize|shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    checkpoints: Checkpoints, other: dict[str, torch.Tensor], message: str
) -> None:
    saved = save(checkpoints, 5, state(5), {})
    with pytest.raises(CheckpointError, match=message):
        saved.load(other)


SAVE_ON_A_FULL_DISK = """
import sys, torch
from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.checkpoint.saver import Saver
from p5dist.errors import CheckpointError
from p5dist.storage import Folder
checkpoints = Checkpoints(Folder.open(sys.argv[1]))
Saver(checkpoints, asynchronous=False).save(1, {"a": torch.full((1000,), 1.0)}, {})
saver = Saver(checkpoints, patience_s=0)
try:
    saver.save(2, {"a": torch.full((4_000_000,), 2.0)}, {})
    saver.wait()
except CheckpointError as e:
    print(e)
    sys.exit(3)
"""


def test_a_full_disk_leaves_the_previous_checkpoint_good(tmp_path: Path) -> None:
    """A real small file system where the test may mount one, else a limit on file size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
            capture_output=True, check=False,
        ).returncode == 0
    )  # fmt: skip

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    try:
        done = subprocess.run(
            [sys.executable, "-c", SAVE_ON_A_FULL_DISK, str(disk / "checkpoints")],
            capture_output=True, text=True, check=False, preexec_fn=None if mounted else limit,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert "could not be written" in done.stdout
        if mounted:
            assert "free space on that disk" in done.stdout
        checkpoints = Checkpoints(Folder.open(str(disk / "checkpoints")))
        assert [c.step for c in checkpoints.all()] == [1]
        into = {"a": torch.zeros(1000)}
        checkpoints.require().load(into)
        assert torch.equal(into["a"], torch.ones(1000))
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)
