"""Why workers failed, in words."""

from __future__ import annotations

from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import UserCallback

from p5dist.config.scale import Scale
from p5dist.errors import P5Error, TrainingError
from p5dist.storage import Folder

ERRORS = "errors.log"
"""In the folder of a stage: every failure of its workers, with tracebacks."""

_TELL_S = 5.0


class FailureNews(UserCallback):  # type: ignore[misc]
    """Tells the monitor about every failure; Ray Train calls it in its controller."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        texts = {rank: str(error) for rank, error in worker_exceptions.items()}
        told = self._monitor.group_failed.remote(reason(worker_exceptions), texts)
        # Before the driver hears that training failed.
        ray.wait([told], timeout=_TELL_S)


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
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, P5Error):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
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
