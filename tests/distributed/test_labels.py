"""A share of the users has labels: their histories are trained on, once an epoch, with the same
curve on any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data.labelled import LabelledUsers
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.errors import ConfigError
from p5dist.feed.mix import open_mix
from p5dist.observe.audit import audit
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

STAGE, EVENT = "finetune/buy", "prepare.source.columns.event=event"
BUY = "finetune={buy: {task: {kind: next_item, events: {buy: 1}, labels: 0.3}, epochs: 2, \
batch_size: 12, log_every: 1, ledger: true, init_from: null}}"


def test_the_users_of_a_smaller_share_are_among_those_of_a_larger_one() -> None:
    users = np.arange(1, 20_001)
    shares = (0.01, 0.1, 0.5)
    chosen = [LabelledUsers(share, seed=3)(users) for share in shares]
    for share, found in zip(shares, chosen, strict=True):
        assert found.mean() == pytest.approx(share, rel=0.15)
    assert not (chosen[0] & ~chosen[1]).any() and not (chosen[1] & ~chosen[2]).any()
    assert not np.array_equal(chosen[1], LabelledUsers(0.1, seed=4)(users))


def test_their_histories_are_trained_on_once_an_epoch(tmp_path: Path) -> None:
    curves = []
    for workers in (1, 2):
        job = small_job(tmp_path / str(workers), EVENT, BUY)
        folder = write_small_data(job)
        (curve, *_) = run_distributed(train, workers, job, STAGE)
        curves.append([loss for _, loss in curve])
        result = audit(job, STAGE)
        users = np.arange(1, 51)  # of one row each
        assert result.exact and result.epochs == 2
        assert result.trained == 2 * LabelledUsers(0.3, job.seed)(users).sum()
        mix = open_mix(job, STAGE, folder, Manifest.load(folder.prepare))
        assert len(curve) == mix.own.order.steps_before(2)
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_nobody_has_labels(tmp_path: Path) -> None:
    job = small_job(tmp_path, EVENT, BUY.replace("0.3", "1e-6"))
    folder = write_small_data(job)
    with pytest.raises(ConfigError, match="no user has labels"):
        open_mix(job, STAGE, folder, Manifest.load(folder.prepare))


def test_histories_of_users_with_labels_are_found_in_every_row_group(tmp_path: Path) -> None:
    job = small_job(tmp_path, EVENT, BUY)
    folder = write_small_data(job)
    manifest = Manifest.load(folder.prepare)
    reader = ShardReader(folder.prepare, manifest)
    chosen = open_mix(job, STAGE, folder, manifest).own.order.groups
    for number in range(len(reader.groups)):
        histories = reader.group(number)
        labelled = LabelledUsers(0.3, job.seed)(histories.user)
        assert chosen.numbers(number).tolist() == histories.row[labelled].tolist()
