"""Errors of Ray in words: those of tasks as they were raised, lost machines with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from p5dist.errors import ClusterError, P5Error, ResourceError


@contextmanager
def errors_as_raised(where: str) -> Iterator[None]:
    """Unwraps errors of p5dist that Ray wrapped, so that they are raised as in the task or actor;
    a lost process or node is a ResourceError or a ClusterError.

    Args:
        where: stage or command, for the message.
    """
    from ray.exceptions import RayError

    try:
        yield
    except RayError as e:
        found = in_words(e, where)
        if found is None:
            raise
        raise found from None


def of_p5dist(error: BaseException) -> P5Error | None:
    """The error of p5dist that an error was raised from, without Ray's wrapper, which has the types
    of both and whose message is the whole traceback."""
    from ray.exceptions import RayError

    for cause in causes(error):
        if isinstance(cause, P5Error) and not isinstance(cause, RayError):
            return cause
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, also across processes; the innermost is the last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__


def in_words(error: BaseException, where: str) -> P5Error | None:
    """The error of p5dist for an error of Ray; None for another error in the code of a task.

    Args:
        where: stage or command, for the message.
    """
    from ray import exceptions as ray

    if (ours := of_p5dist(error)) is not None:
        return ours
    *_, innermost = causes(error)
    value = next((line.strip() for line in str(innermost).splitlines() if line.strip()), None)
    value = f"{type(innermost).__name__}: {value}"
    if isinstance(innermost, (ray.OutOfMemoryError, ray.ObjectStoreFullError, ray.OutOfDiskError)):
        return ResourceError(
            "a node of the cluster has no memory or disk space left", where=where, value=value,
            fix="use nodes with more memory or disk, or fewer CPUs per node (ray start "
            "--num-cpus), so that fewer tasks run at once; for prepare also more prepare.shards",
        )  # fmt: skip
    if isinstance(innermost, (ray.WorkerCrashedError, ray.RayActorError)):
        return ResourceError(
            "a process on the cluster was lost", where=where, value=value,
            rule="the system kills processes when memory runs out",
            fix="give the nodes more memory or fewer CPUs; start the same command again",
        )  # fmt: skip
    if isinstance(innermost, ray.RayError) and not isinstance(innermost, ray.RayTaskError):
        return ClusterError(
            "the Ray cluster lost a node or failed", where=where, value=value,
            fix="look at the cluster (ray status); once it has its nodes, start the same command "
            "again",
        )  # fmt: skip
    return None
