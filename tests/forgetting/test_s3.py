"""People leave prepared data on object storage."""

from __future__ import annotations

from pathlib import Path

from p5dist import pipeline
from p5dist.data.manifest import Manifest
from p5dist.forgetting import forget as forgetting
from p5dist.forgetting.runs import related_runs
from p5dist.storage import RunFolder
from tests.forgetting.test_no_trace import GONE, write
from tests.s3 import Store


def test_on_object_storage(tmp_path: Path, s3: Store) -> None:
    job = write(tmp_path).model_copy(update={"storage": s3.url})
    pipeline.run(job, ["prepare"])
    period = {"name": "shop-period-0001", "prepare": {"continues": f"{s3.url}/shop"}}
    (RunFolder.of_job(job).root.above / "shop-period-0001/job.yaml").write_json(period)
    assert len(related_runs(job)) == 2
    (RunFolder.of_job(job).root.above / "shop-period-0001").remove()
    said = forgetting.forget(job, str(tmp_path / "gone.txt"))
    assert said["runs"]["shop"]["users"] == len(GONE)
    manifest = Manifest.load(RunFolder.of_job(job).prepare)
    assert manifest.rows_rejected["forgotten"] == 13
    again = forgetting.forget(job, str(tmp_path / "gone.txt"))
    assert again["runs"]["shop"]["users"] == 0
