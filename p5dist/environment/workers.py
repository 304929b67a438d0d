"""The workers that run the tasks of a stage: a Ray cluster, or processes on this machine.

Tasks are functions of their arguments that write their results to files, so that both kinds of
workers write the same bytes. On a single machine processes are faster: the start of Ray takes
longer than ten million rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from p5dist.config.scale import Scale
from p5dist.environment.processes import Processes
from p5dist.environment.ray_errors import errors_as_raised


class Workers(Protocol):
    """Runs calls of module-level functions side by side."""

    def share(self, value: Any) -> Any:
        """A handle to pass as a positional argument instead of ``value``, which is shipped once.
        Tasks get the value itself, and must not change it."""

    def results(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """(number, result) of every call, by its arguments, as it ends.

        Raises:
            P5Error: an error of the function; ResourceError if a worker was lost, ClusterError if
                a node was.
        """

    def close(self) -> None:
        """End the processes that were started."""


class RayTasks:
    """The CPUs of the Ray cluster that this process has joined.

    Args:
        where: the stage, for messages.
    """

    def __init__(self, scale: Scale, where: str) -> None:
        from p5dist.environment.ray_session import connect

        connect(scale)
        self._where = where

    def share(self, value: Any) -> Any:
        import ray

        with errors_as_raised(self._where):
            return ray.put(value)

    def results(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        import ray

        task = ray.remote(function)
        number = {task.remote(*arguments): i for i, arguments in enumerate(calls)}
        while number:
            with errors_as_raised(self._where):
                (done,), _ = ray.wait(list(number), num_returns=1)
                result = ray.get(done)
            yield number.pop(done), result
            del done, result  # releases the object

    def close(self) -> None:
        """The session stays, for the stages that follow."""


class Here:
    """This process, for work that is not worth a start of others."""

    def share(self, value: Any) -> Any:
        return value

    def results(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        for number, arguments in enumerate(calls):
            yield number, function(*arguments)

    def close(self) -> None:
        """Nothing was started."""


def workers_for(scale: Scale, where: str, imports: str = "") -> Workers:
    """Ray where the job names a cluster, else processes of this machine. Close them.

    Args:
        where: the stage, for messages.
        imports: module of the tasks, which processes import while the driver still plans.
    """
    if scale.address is None:
        return Processes(where, imports=imports)
    return RayTasks(scale, where)
