"""Errors of scoring tasks, and whether scoring runs in this process."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from p5dist.environment.ray_errors import errors_as_raised
from p5dist.errors import TrainingError
from p5dist.inference.scoring import scores_here
from tests.small_data import small_job


def test_errors_of_ray_tasks_come_out_as_raised(ray_session: None) -> None:
    import ray

    @ray.remote
    def fail() -> pa.Table:
        raise TrainingError("in a task", where="here")

    with pytest.raises(TrainingError, match="in a task") as caught, errors_as_raised("test"):
        ray.get(fail.remote())
    assert caught.value.where == "here"
    assert str(caught.value) == "in a task\n  where: here"


@pytest.mark.parametrize(
    ("overrides", "here"),
    [
        ((), True),
        (("scale.workers=2",), False),
        (("scale.workers=2", "scale.actors=1"), True),
        (("scale.actors=2",), False),
        (("scale.address=auto",), False),
    ],
)
def test_one_actor_on_one_machine_is_this_process(
    tmp_path: Path, overrides: tuple[str, ...], here: bool
) -> None:
    assert scores_here(small_job(tmp_path, *overrides)) == here
