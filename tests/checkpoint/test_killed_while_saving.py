"""A process is killed with SIGKILL at every write of a save; the previous checkpoint is found."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from p5dist.checkpoint.checkpoints import Checkpoints, Retention
from p5dist.checkpoint.saver import Saver
from p5dist.storage import Folder
from tests.processes import PRELOADED

When = Literal["before", "half", "after"]


def state(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((1000, 8), value), "b": torch.full((5,), value)}


def save_twice(folder: str, kill_at: int, when: When) -> None:
    """The second save is killed before, in the middle of, or after its write or removal number
    ``kill_at``; there may be fewer."""
    calls = 0

    def killing(name: str) -> Callable[..., Any]:
        real = getattr(Folder, name)

        def wrapped(self: Folder, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            now = calls == kill_at
            if now and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if now and when == "half" and name == "_write_local":
                args = (half_of(args[0]), *args[1:])
            result = real(self, *args, **kwargs)
            if now and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    checkpoints = Checkpoints(Folder.open(folder))
    Saver(checkpoints, asynchronous=False, retention=Retention(1)).save(1, state(1.0), {})
    for name in ("_write_local", "remove"):
        setattr(Folder, name, killing(name))
    saver = Saver(checkpoints, attempt="1", retention=Retention(1))
    saver.save(2, state(2.0), {})
    saver.wait()


def half_of(chunks: Iterable[Any]) -> Iterator[bytes]:
    chunk = bytes(next(iter(chunks)))
    yield chunk[: len(chunk) // 2]
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_complete_checkpoint_is_always_found(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    outcomes = []
    whens: tuple[When, ...] = ("before", "half", "after")
    for when in whens:
        for kill_at in range(1, 20):
            folder = str(tmp_path / f"{when}-{kill_at}")
            process = context.Process(target=save_twice, args=(folder, kill_at, when))
            process.start()
            process.join()
            latest = Checkpoints(Folder.open(folder)).require()
            into = state(0.0)
            latest.load(into)
            expected = state(float(latest.step))
            assert all(torch.equal(into[name], expected[name]) for name in expected)
            if process.exitcode == 0:  # fewer writes than that; or half of a removal
                assert latest.step == 2
                break
            assert process.exitcode == -signal.SIGKILL
            outcomes.append(latest.step)
        else:
            raise AssertionError("the save never came to its end")
    # Tensors, index, meta and marker are written, and two removals follow; both ends were seen.
    assert set(outcomes) == {1, 2}
