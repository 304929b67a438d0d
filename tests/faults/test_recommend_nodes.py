"""Lists for all users do not depend on a node that is lost while they are made."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.config import dump_job
from p5dist.inference import recommend
from p5dist.storage import RunFolder
from tests.distributed.stages import train
from tests.faults.jobs import JobProcess
from tests.faults.nodes import ray_nodes
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

pytestmark = pytest.mark.slow

USERS, PORTION = 6000, 20
OVERRIDES = ("pretrain.steps=4", "finetune={}", f"feed.unit_rows={PORTION}")


def parts(folder: RunFolder) -> dict[str, pa.Table]:
    place = Path(folder.recommend.path)
    return {file.name: pq.read_table(file) for file in sorted(place.glob("part-*.parquet"))}


def test_lists_after_the_loss_of_a_node(tmp_path: Path) -> None:
    job = small_job(tmp_path, *OVERRIDES)
    folder = write_small_data(job, users=USERS, group_rows=PORTION)
    run_distributed(train, 1, job, "pretrain")
    recommend.run(job, folder)
    expected = parts(folder)
    assert len(expected) == USERS // PORTION
    folder.recommend.remove()
    with ray_nodes(3) as nodes:
        other = small_job(
            tmp_path, *OVERRIDES, "scale.actors=3", f"scale.address='{nodes.address}'"
        )
        file = tmp_path / "job.yaml"
        file.write_text(dump_job(other))
        process = JobProcess("recommend", file)
        process.start()
        end = time.monotonic() + 200
        while len(parts(folder)) < 40:
            assert time.monotonic() < end, process.log.read_text()
            time.sleep(0.1)
        nodes.kill(nodes.nodes[0])
        assert len(parts(folder)) < len(expected), "killed in the middle"
        assert process.wait(300) == 0, process.log.read_text()
    found = parts(folder)
    assert found.keys() == expected.keys()
    assert all(found[name].equals(table) for name, table in expected.items())
