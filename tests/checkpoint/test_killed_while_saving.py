"""A process is killed with SIGKILL at every write of a save; the previous checkpoint is found."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import torch

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.storage import Folder

SAVE = """
import os, signal, sys, torch
from p5dist.checkpoint.checkpoints import Checkpoints, Retention
from p5dist.checkpoint.saver import Saver
from p5dist.storage import Folder

folder, kill_at, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
checkpoints = Checkpoints(Folder.open(folder))
calls = 0

def killing(name):
    real = getattr(Folder, name)
    def wrapped(self, *args, **kwargs):
        global calls
        calls += 1
        if calls == kill_at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == kill_at and when == "half" and name == "_write_local":
            chunks = iter(args[0])
            def half():
                chunk = bytes(next(chunks))
                yield chunk[: len(chunk) // 2]
                os.kill(os.getpid(), signal.SIGKILL)
            args = (half(), *args[1:])
        result = real(self, *args, **kwargs)
        if calls == kill_at and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(Folder, name, wrapped)

def state(value):
    return {"a": torch.full((1000, 8), value), "b": torch.full((5,), value)}

Saver(checkpoints, asynchronous=False, retention=Retention(1)).save(1, state(1.0), {})
killing("_write_local")
killing("remove")
saver = Saver(checkpoints, attempt="1", retention=Retention(1))
saver.save(2, state(2.0), {})
saver.wait()
print("all done after", calls)
"""


def test_a_complete_checkpoint_is_always_found(tmp_path: Path) -> None:
    outcomes = []
    for when in ("before", "half", "after"):
        for kill_at in range(1, 20):
            folder = tmp_path / f"{when}-{kill_at}"
            done = subprocess.run(
                [sys.executable, "-c", SAVE, str(folder), str(kill_at), when],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            latest = Checkpoints(Folder.open(str(folder))).require()
            into = {"a": torch.zeros(1000, 8), "b": torch.zeros(5)}
            latest.load(into)
            assert torch.equal(into["a"], torch.full((1000, 8), float(latest.step)))
            assert torch.equal(into["b"], torch.full((5,), float(latest.step)))
            if "all done" in done.stdout:
                assert latest.step == 2
                break
            outcomes.append(latest.step)
            if when != "half":  # a removal has no half
                assert done.returncode == -signal.SIGKILL, done.stderr
        else:
            raise AssertionError("the save never came to its end")
    # Tensors, index, meta and marker are written, and two removals follow; both ends were seen.
    assert set(outcomes) == {1, 2}
