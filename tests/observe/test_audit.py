"""The audit proves that every row was trained on exactly once, and finds rows that were not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

from p5dist.config import RunConfig
from p5dist.errors import RunFolderError
from p5dist.feed.stream import LaneStream, read_here
from p5dist.observe.audit import audit
from p5dist.observe.events import Callback, Event, Trained
from p5dist.observe.ledger import LedgerWriter
from p5dist.storage import RunFolder
from p5dist.train.loop import run_steps
from tests.distributed.agreeing import StopAfter
from tests.distributed.stages import Recorder, open_stage
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data


class DieAt(Callback):
    """A worker dies in a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on(self, event: Event) -> None:
        if isinstance(event, Trained) and event.step == self.step:
            raise KeyboardInterrupt


def train(job: RunConfig, attempt: str, stop_at: int | None, die_at: int | None) -> None:
    session = open_stage(job, "pretrain")
    folder = RunFolder.of(job.storage, job.name)
    readers = session.mix.readers(job, session.training)
    stream = LaneStream(readers, dist.get_rank(), dist.get_world_size(), 10, 1, read_here)
    ledger = LedgerWriter(
        folder.training("pretrain"), attempt=attempt, start=session.start, rank=dist.get_rank()
    )
    try:
        recorder = Recorder()
        run_steps(
            session,
            stream,
            callbacks=[recorder, DieAt(die_at), ledger],
            requests=StopAfter(recorder, stop_at),
        )
    except KeyboardInterrupt:
        session.saver.wait()
    session.saver.close()


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two workers die in step 13 with a checkpoint at 10, three stop in step 16, one ends."""
    job = small_job(tmp_path_factory.mktemp("run"), "finetune={}")
    write_small_data(job)
    run_distributed(train, 2, job, "1000", None, 13)
    run_distributed(train, 3, job, "1001", 6, None)
    run_distributed(train, 1, job, "1002", None, None)
    return job


def copied(job: RunConfig, to: Path) -> RunConfig:
    shutil.copytree(job.storage, to, dirs_exist_ok=True)
    return job.model_copy(update={"storage": str(to)})


def test_nothing_is_lost_or_twice_over_deaths_stops_and_resizes(disturbed: RunConfig) -> None:
    found = audit(disturbed, "pretrain")
    assert found.exact
    # 50 histories, batches of 12 from 6 lanes; 20 steps.
    assert (found.steps, found.attempts) == (20, 3)
    assert found.epochs >= 2
    assert "every row exactly once" in found.text()


def test_rows_that_nobody_trained_on_are_named(disturbed: RunConfig, tmp_path: Path) -> None:
    job = copied(disturbed, tmp_path)
    ledger = tmp_path / "small/pretrain/ledger"
    # The second worker of the first start, steps 5 to 9.
    gone = next(ledger.glob("1000-00000000-00001-00000010.parquet"))
    table = pq.read_table(gone)
    gone.unlink()
    found = audit(job, "pretrain")
    assert not found.exact
    assert found.surplus == []
    lost = {(x["step"], x["row"]) for x in found.lost}
    every = set(zip(table["step"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert lost
    assert lost <= every


def test_rows_that_are_trained_on_twice_are_named(disturbed: RunConfig, tmp_path: Path) -> None:
    job = copied(disturbed, tmp_path)
    ledger = tmp_path / "small/pretrain/ledger"
    one = next(ledger.glob("1000-00000000-00000-00000005.parquet"))
    shutil.copy(one, ledger / "1000-00000000-00007-00000005.parquet")
    found = audit(job, "pretrain")
    assert not found.exact
    assert found.lost == []
    table = pq.read_table(one)
    assert (found.surplus[0]["step"], found.surplus[0]["row"]) in set(
        zip(table["step"].to_pylist(), table["row"].to_pylist(), strict=True)
    )


def test_a_stage_without_a_ledger_says_how_to_get_one(disturbed: RunConfig, tmp_path: Path) -> None:
    job = copied(disturbed, tmp_path)
    shutil.rmtree(tmp_path / "small/pretrain/ledger")
    with pytest.raises(RunFolderError, match="ledger: true"):
        audit(job, "pretrain")
