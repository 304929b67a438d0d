"""Why workers failed, in words."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.train
from ray.exceptions import RayActorError, RayError
from ray.train import UserCallback

from p5dist.config import RunConfig
from p5dist.config.scale import Scale
from p5dist.environment.ray_errors import of_p5dist
from p5dist.errors import P5Error, StorageError, TrainingError
from p5dist.storage import Folder

ERRORS = "errors.log"
"""In the folder of a stage: every failure of its workers, with tracebacks."""

_TELL_S = 5.0


_MISTAKES = (
    TypeError, AttributeError, NameError, ImportError, LookupError, ValueError, AssertionError,
    NotImplementedError, ArithmeticError,
)  # fmt: skip
"""Errors of Python that come from code, not from the machines that run it."""


class FailureNews(UserCallback):  # type: ignore[misc]
    """Tells the monitor about every failure; Ray Train calls it in its controller."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """
        Raises:
            P5Error: an error that no restart heals. Ray Train ends the run if a callback raises.
        """
        texts = {rank: str(error) for rank, error in worker_exceptions.items()}
        told = self._monitor.group_failed.remote(reason(worker_exceptions), texts)
        # Before the driver hears that training failed.
        ray.wait([told], timeout=_TELL_S)
        asked = self._monitor.error.remote()
        if ray.wait([asked], timeout=_TELL_S)[0] and (final := ray.get(asked)) is not None:
            raise final


def own_packages(job: RunConfig) -> list[str]:
    """Top-level packages, other than p5dist, of the encoder and the tasks of a job."""
    kinds = [type(job.model.encoder), *(type(task) for _, task in job.tasks())]
    return sorted({kind.__module__.partition(".")[0] for kind in kinds} - {"p5dist"})


def final_error(error: BaseException, own: Sequence[str]) -> P5Error | None:
    """What to tell the user about an error that no restart heals: of settings, data and code.
    None for an error that a restart may heal: of machines, networks and storage.

    Args:
        own: packages of the user, see :func:`own_packages`.
    """
    if (ours := of_p5dist(error)) is not None:
        return None if isinstance(ours, StorageError) else ours
    frames = traceback.extract_tb(error.__traceback__)
    names = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    mine = [f for f, name in zip(frames, names, strict=True) if name.partition(".")[0] in own]
    mistake = isinstance(error, _MISTAKES) and not isinstance(error, (RayError, pa.ArrowException))
    if not mistake and not (mine and _is_of_code(error, names)):
        return None
    place = mine[-1] if mine else frames[-1]
    return TrainingError(
        "an error in the code of an encoder, objective or task" if mine else "an error in code",
        where=f"{place.filename}, line {place.lineno}, in {place.name}",
        value=f"{type(error).__name__}: {error}",
        rule=f"no restart heals it; {ERRORS} in the folder of the stage has the traceback",
        fix="correct this code, then run the same command" if mine
        else "look at the traceback; if p5dist is wrong, please report it",
    )  # fmt: skip


def _is_of_code(error: BaseException, modules: Sequence[str]) -> bool:
    """Whether an error in own code, such as a RuntimeError of PyTorch, comes from this code: not
    from memory, devices, files, or another worker that is gone.

    Args:
        modules: names of the modules in the traceback.
    """
    words = f"{type(error).__name__} {error}".lower()
    machine = isinstance(error, (OSError, MemoryError, RayError)) or any(
        word in words for word in ("outofmemory", "cuda error", "accelerator", "gloo", "nccl")
    )
    return not machine and not any(
        name.startswith(("torch.distributed", "torchrec.distributed")) for name in modules[-3:]
    )


def reason(failures: dict[int, Exception]) -> str:
    """One line about the worker that failed first: when one fails, the others lose their
    connection to it."""

    def rank_and_weight(entry: tuple[int, Exception]) -> tuple[int, int]:
        rank, error = entry
        return (0 if _lost(error) else 2 if "gloo" in str(error) else 1), rank

    rank, error = min(failures.items(), key=rank_and_weight)
    if lost := _lost(error):
        return f"worker {rank} lost: {lost}"
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"worker {rank} failed: {type(error).__name__}: {text}"


def _lost(error: Exception) -> str | None:
    """How the process of a worker ended; None where it raised an error."""
    cause = getattr(error, "health_check_failure", error)
    if not isinstance(cause, RayActorError):
        return None
    text = str(cause)
    if "node has died" in text or "node was terminated" in text:
        return "its node is gone"
    if "running low on memory" in text:
        return "Ray ended it because the node was low on memory"
    return "its process ended (killed, out of memory, or crashed)"


def explain(error: ray.train.TrainingFailedError, scale: Scale, stage_folder: Folder) -> P5Error:
    """The worker's own error where it is one of ours, else :func:`reason`.

    Args:
        stage_folder: folder of the stage.
    """
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        if (ours := of_p5dist(failure)) is not None:
            return ours
    if failures:
        text = reason(failures)
    else:
        text = [line for line in str(error).strip().splitlines() if line.strip()][-1]
    return TrainingError(
        "the workers failed more often than allowed",
        where=str(stage_folder / ERRORS),
        value=text,
        rule=f"scale.max_failures = {scale.max_failures}",
        fix="start the same command again: it continues from the last complete checkpoint",
    )
