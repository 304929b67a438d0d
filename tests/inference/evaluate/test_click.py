"""Evaluation of a click task on a small prepared folder, against plain lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from p5dist.data import columns as c
from p5dist.inference.evaluate import stage
from p5dist.inference.evaluate.table import table
from tests.fake_scorer import click_of, load_fake
from tests.small_data import small_job, write_small_data


def test_click_metrics_of_the_stage(tmp_path: Path) -> None:
    job = small_job(
        tmp_path,
        "finetune={buys: {task: {kind: click, positive: [buy]}, steps: 1, batch_size: 12}}",
        "prepare.source.columns.event=event", "pretrain=null", "evaluate.batch_size=7",
        "finetune.buys.init_from=null", "recommend=null",
    )  # fmt: skip
    folder = write_small_data(job)
    result = stage.run(job, folder, load=load_fake)
    assert result["protocol"]["click_from"] == "finetune/buys"
    test, train = [], []
    for shard in sorted(Path(folder.prepare.path, "shards").glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            for item, event, split in zip(row[c.ITEM], row[c.EVENT], row[c.SPLIT], strict=True):
                rows = {c.TEST: test, c.TRAIN: train}.get(split, [])
                rows.append((row[c.USER], item, float(event == 2)))
    user, item, label = (np.array(column) for column in zip(*test, strict=True))
    bought = np.array([y for _, _, y in train]).mean()
    rates = {}
    for i in range(1, 31):
        own = [y for _, j, y in train if j == i]
        rates[i] = (sum(own) + 10 * bought) / (len(own) + 10)
    for found, p in (
        ({key: m["value"] for key, m in result["metrics"].items()}, click_of(user, item)),
        (result["baselines"]["item_rate"], np.array([rates[i] for i in item])),
    ):
        yes, no = p[label == 1], p[label == 0]
        expected = {
            "auc": (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2,
            "logloss": -np.log(np.where(label == 1, p, 1 - p)).mean(),
            "calibration": p.sum() / label.sum(),
        }
        assert found == pytest.approx(expected)
    assert result["metrics"]["auc"]["low"] < result["metrics"]["auc"]["value"]
    assert len(table(result).renderables) == 3
