"""Which row groups make a unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from p5dist.data.manifest import Manifest
from p5dist.errors import ShardError, TrainingError
from p5dist.inference.actors import Reader, errors_as_raised, plan_units
from tests.small_data import small_job, write_small_data


@pytest.mark.parametrize("rows", [1, 7, 20, 1000])
def test_units_hold_every_user_once(tmp_path: Path, rows: int) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job, users=50, shards=3, group_rows=4)
    units = plan_units(Manifest.load(folder.prepare), rows)
    reader = Reader.of(job, folder)
    parts = [reader.read(unit) for unit in units]
    assert np.concatenate([p.user for p in parts]).tolist() == list(range(1, 51))
    assert [len(p) for p in parts] == [u.rows for u in units]
    assert all(rows <= u.rows < rows + 4 for u in units[:-1])
    assert [u.number for u in units] == list(range(len(units)))


def test_a_corrupt_shard_is_named(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    (unit,) = plan_units(Manifest.load(folder.prepare), 1000)
    place = folder.prepare / "shards/part-00001.parquet"
    place.write_bytes(b"x" * 1000)
    with pytest.raises(ShardError, match="part-00001"):
        Reader.of(job, folder).read(unit)


def test_errors_of_ray_tasks_come_out_as_raised(ray_session: None) -> None:
    import ray

    @ray.remote
    def fail() -> pa.Table:
        raise TrainingError("in a task", where="here")

    with pytest.raises(TrainingError, match="in a task") as caught, errors_as_raised():
        ray.get(fail.remote())
    assert caught.value.where == "here"
    assert str(caught.value) == "in a task\n  where: here"
