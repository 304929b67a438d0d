"""Errors that no restart heals end a training at once; other errors are retried."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from ray.exceptions import RayTaskError

from p5dist.errors import ConfigError, P5Error, ShardError, StorageError, TrainingError
from p5dist.observe.events import Failed, Started
from p5dist.train import driver
from p5dist.train.failures import final_error, own_packages
from tests.faults.mistaken import WrongShape
from tests.faults.test_worker_killed import Recorder
from tests.small_data import small_job, write_small_data


@pytest.mark.parametrize(
    ("kind", "value", "line"),
    [
        ("WrongAtBuild", "AttributeError: 'WrongAtBuild' object has no attribute 'width'", "build"),
        pytest.param(
            "WrongShape",
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
            "forward",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistake_in_an_own_encoder(
    tmp_path: Path, ray_session: None, kind: str, value: str, line: str
) -> None:
    job = small_job(
        tmp_path, "scale.workers=2", f"model.encoder={{kind: 'tests.faults.mistaken:{kind}'}}"
    )
    folder = write_small_data(job)
    heard = Recorder()
    with pytest.raises(TrainingError) as caught:
        driver.run(job, folder, "pretrain", [heard])
    error = caught.value
    assert error.what == "an error in the code of an encoder, objective or task"
    assert str(error.value).startswith(value)
    assert "tests/faults/mistaken.py, line " in str(error.where)
    assert str(error.where).endswith(f"in {line}")
    assert "again" not in str(error)
    failures = [event for event in heard.events if isinstance(event, Failed)]
    starts = [event for event in heard.events if isinstance(event, Started)]
    assert len(failures) == 1 and len(starts) <= 1, "scale.max_failures is 3"
    traces = (folder.training("pretrain") / "errors.log").read_bytes().decode()
    assert "mistaken.py" in traces and "Traceback" in traces


@pytest.mark.slow
def test_a_damaged_checkpoint_is_not_read_four_times(tmp_path: Path, ray_session: None) -> None:
    job = small_job(tmp_path, "pretrain.steps=5", "scale.workers=1")
    folder = write_small_data(job)
    driver.run(job, folder, "pretrain")
    tensors = folder.training("pretrain") / "checkpoints/step-00000005"
    name = next(name for name in tensors.children() if name.endswith(".safetensors"))
    (tensors / name).write_bytes(b"short")
    heard = Recorder()
    longer = small_job(tmp_path, "pretrain.steps=5", "pretrain.checkpoint.every=3")
    with pytest.raises(P5Error, match="missing, truncated or changed"):
        driver.run(longer, folder, "pretrain", [heard])
    assert sum(isinstance(event, Failed) for event in heard.events) == 1


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as e:
        return e


def test_which_errors_are_final() -> None:
    wrong = ConfigError("wrong")
    assert final_error(raised(wrong), []) is wrong
    assert final_error(raised(RuntimeError("in a thread"), wrong), []) is wrong
    broken = ShardError("broken")
    assert final_error(RayTaskError("read", "trace", broken).as_instanceof_cause(), []) is broken
    for error in (KeyError("a"), TypeError("b"), ImportError("c"), ZeroDivisionError()):
        found = final_error(raised(error), [])
        assert isinstance(found, TrainingError) and type(error).__name__ in str(found.value)
        assert "p5dist" in str(found.fix)


def test_which_errors_are_retried() -> None:
    for error in (
        StorageError("denied for now"),
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"),
        ConnectionResetError(),
        TimeoutError(),
        OSError(28, "No space left on device"),
        MemoryError(),
        pa.ArrowInvalid("a short read"),
        RayTaskError("read", "trace", KeyError("lost")).as_instanceof_cause(),
    ):
        assert final_error(raised(error), []) is None, error


def test_an_error_of_torch_is_final_if_own_code_raised_it() -> None:
    error = raised(RuntimeError("shapes"))
    found = final_error(error, ["tests"])
    assert isinstance(found, TrainingError) and "in raised" in str(found.where)
    assert final_error(error, ["elsewhere"]) is None
    for other in (
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.distributed.DistBackendError("NCCL error"),
        ConnectionResetError("while it reads a file"),
    ):
        assert final_error(raised(other), ["tests"]) is None, other


def test_own_packages() -> None:
    assert own_packages(small_job(Path("x"))) == []
    kind = f"{WrongShape.__module__}:WrongShape"
    assert own_packages(small_job(Path("x"), f"model.encoder={{kind: '{kind}'}}")) == ["tests"]
