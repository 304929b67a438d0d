"""Storage fails during a run: a shard is damaged, the object store refuses writes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.errors import ShardError
from p5dist.observe.metrics_log import read_metrics
from p5dist.storage import RunFolder
from p5dist.train import driver
from tests.s3 import Store
from tests.small_data import small_job, write_small_data


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [0, 5_000_000])
def test_a_corrupt_shard_ends_the_run_and_is_named(
    tmp_path: Path, ray_session: None, in_memory: int
) -> None:
    job = small_job(
        tmp_path, f"feed.in_memory={in_memory}", "scale.workers=2", "scale.max_failures=0"
    )
    folder = write_small_data(job)
    shard = Path(folder.prepare.path, "shards/part-00001.parquet")
    content = bytearray(shard.read_bytes())
    content[:400] = bytes(400)
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"part-00001\.parquet, row group \d"):
        driver.run(job, folder, "pretrain")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two trainings and a minute of refusals, through a slow store
def test_checkpoints_wait_for_a_store_that_refuses_writes_for_a_minute(
    tmp_path: Path, s3: Store, ray_session: None
) -> None:
    steps = ("pretrain.steps=300", "pretrain.checkpoint={every: 50, keep: 2}", "scale.workers=2")
    local = small_job(tmp_path, *steps)
    here = write_small_data(local)
    driver.run(local, here, "pretrain")

    job = small_job(tmp_path, *steps, f"storage={s3.url}/runs")
    folder = RunFolder.of(job.storage, job.name)
    pafs.copy_files(
        here.prepare.path, folder.prepare.path, destination_filesystem=folder.prepare.fs
    )
    stage = folder.training("pretrain")
    refused = [
        s3.proxy.inject("slow_down", method=method, key="*/checkpoints/*", times=None)
        for method in ("PUT", "POST")
    ]

    def allow_again() -> None:
        end = time.monotonic() + 200
        while not any(fault.hits for fault in refused) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(60)
        s3.proxy.clear()

    watcher = threading.Thread(target=allow_again)
    watcher.start()
    result = driver.run(job, folder, "pretrain")
    watcher.join()
    assert sum(fault.hits for fault in refused) > 2
    assert result["restarts"] == 0
    assert Checkpoints(stage / "checkpoints").require().step == 300
    expected = [m["loss"] for m in read_metrics(here.training("pretrain"))]
    assert [m["loss"] for m in read_metrics(stage)] == pytest.approx(expected, rel=1e-5)
