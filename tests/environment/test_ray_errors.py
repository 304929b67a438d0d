"""Errors of Ray in words."""

from __future__ import annotations

import pytest
from ray import exceptions as ray

from p5dist.environment.ray_errors import errors_as_raised, in_words
from p5dist.errors import ClusterError, DataError, P5Error, ResourceError


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (ray.OutOfMemoryError("Task was killed: 93 % of 4 GB"), ResourceError, "no memory or disk"),
        (ray.OutOfDiskError("Local disk is full"), ResourceError, "no memory or disk"),
        (ray.ObjectStoreFullError("full"), ResourceError, "no memory or disk"),
        (ray.WorkerCrashedError(), ResourceError, "a process on the cluster was lost"),
        (ray.RayActorError(), ResourceError, "a process on the cluster was lost"),
        (ray.NodeDiedError("node 10.0.0.7"), ClusterError, "the Ray cluster lost a node"),
        (ray.ObjectLostError("ab", None, ""), ClusterError, "the Ray cluster lost a node"),
        (ray.OwnerDiedError("ab", None, ""), ClusterError, "the Ray cluster lost a node"),
        (ray.LocalRayletDiedError(), ClusterError, "the Ray cluster lost a node"),
    ],
)
def test_what_is_lost_says_what_to_do(error: Exception, kind: type[P5Error], what: str) -> None:
    with pytest.raises(kind, match=what) as caught, errors_as_raised("prepare"):
        raise error
    assert caught.value.where == "prepare" and caught.value.fix
    assert str(caught.value.value).startswith(type(error).__name__)
    inside = ray.RayTaskError("read", "trace", error).as_instanceof_cause()
    found = in_words(inside, "prepare")
    assert type(found) is kind, "an error of Ray inside a task"


def test_errors_of_the_code_stay_as_they_are() -> None:
    wrong = DataError("wrong", where="a.csv")
    inside = ray.RayTaskError("read", "trace", wrong).as_instanceof_cause()
    with pytest.raises(DataError) as caught, errors_as_raised("prepare"):
        raise inside
    assert str(caught.value) == "wrong\n  where: a.csv"
    other = ray.RayTaskError("read", "trace", KeyError("x")).as_instanceof_cause()
    with pytest.raises(KeyError), errors_as_raised("prepare"):
        raise other
