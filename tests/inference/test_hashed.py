"""A hashed vocabulary with far more ids than items, from the log to the lists: only ids that an
item has are drawn, ranked, listed and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import p5dist
from p5dist.config import RunConfig, dump_job, parse_job
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.errors import DataError
from p5dist.inference import recommend
from p5dist.inference.evaluate import stage as evaluate
from p5dist.prepare import stage as prepare
from p5dist.prepare.arrays import stable_hash
from p5dist.storage import RunFolder
from p5dist.tasks.build import make_collate
from tests.distributed.stages import train
from tests.prepare.runs import processes
from tests.processes import run_distributed

ITEMS, IDS = [f"item {i}" for i in range(12)], 60
JOB = f"""
name: hashed
storage: {{storage}}
prepare:
  source: {{{{files: {{storage}}/log.csv, columns: {{{{timestamp: time}}}}}}}}
  vocabulary: {{{{hashed: {IDS}}}}}
feed: {{{{lanes: 2}}}}
model: {{{{dim: 8}}}}
pretrain:
  objective:
    kind: multi
    objectives: {{{{one: {{{{kind: masked}}}}, two: {{{{kind: masked}}}}}}}}
  steps: 3
  batch_size: 8
  validation: {{{{every: 3}}}}
finetune:
  bought: {{{{task: {{{{kind: click, negatives: 5}}}}, init_from: null, steps: 3, batch_size: 8}}}}
ranking: {{{{item_to_item: 0.3}}}}
evaluate: {{{{bootstrap: 0, k: [12, 40]}}}}
recommend: {{{{k: 40, mask_seen: false}}}}
"""


@dataclass(frozen=True)
class Made:
    """A finished run."""

    job: RunConfig
    folder: RunFolder
    result: dict[str, Any]
    """Of evaluate."""
    names: list[str | None]
    """External id of every id from 1."""

    @property
    def listed(self) -> set[str]:
        """The items that have an id of their own, or share one as its most frequent item."""
        return {name for name in self.names if name is not None}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("hashed")
    draw = np.random.default_rng(0)
    rows = [f"u{user},{draw.choice(ITEMS)},{n}" for user in range(30) for n in range(9)]
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,time", *rows]) + "\n")
    job = parse_job(JOB.format(storage=folder))
    run = RunFolder.of(job.storage, job.name)
    prepare.run(job, run, processes())
    run.job.write_text(dump_job(job))
    for stage in job.trainings():
        run_distributed(train, 1, job, stage)
    recommend.run(job, run)
    table = pq.read_table(Path(run.prepare.path, "vocabulary/item.parquet"))
    return Made(job, run, evaluate.run(job, run), table[c.EXTERNAL_ID].to_pylist())


def test_every_list_names_items_only(made: Made) -> None:
    table = (made.folder.recommend / "part-00000.parquet").read_table()
    by_user: dict[str, list[str]] = {}
    for row in table.to_pylist():
        by_user.setdefault(row[c.USER_ID], []).append(row[c.ITEM_ID])
    assert len(by_user) == 30
    assert all(sorted(items) == sorted(made.listed) for items in by_user.values())


def test_results_count_items_only(made: Made) -> None:
    shared = len(ITEMS) - len(made.listed)
    assert made.result["protocol"]["catalogue"] == len(ITEMS)
    expected = (len(ITEMS) - shared) / len(ITEMS)
    assert made.result["metrics"]["coverage@40"]["value"] == pytest.approx(expected)
    for baseline in ("popularity", "item_to_item"):
        assert made.result["baselines"][baseline]["coverage@40"] == pytest.approx(expected)
    without_repeats = made.result["protocol"]["targets"] - made.result["protocol"]["repeats"]
    share = without_repeats / made.result["protocol"]["targets"]
    assert made.result["metrics"]["hr@12"]["value"] == pytest.approx(share), "at most 12 candidates"


def test_only_items_are_shown_and_drawn_in_training(made: Made) -> None:
    manifest = Manifest.load(made.folder.prepare)
    named = {i for i, name in enumerate(made.names, 1) if name is not None}
    for stage, training in made.job.trainings().items():
        collate = make_collate(made.job, made.folder, manifest, training)
        draw = [getattr(fields, "negatives", None) for fields in collate.fields.values()]
        draws = [one for one in (*draw, collate.masking) if one is not None]
        drawn = [set(one.catalogue.ids.tolist()) for one in draws]
        assert drawn == [named], stage


def test_the_python_api_knows_items_only(made: Made) -> None:
    run = p5dist.load(str(made.folder.root))
    known = sorted(made.listed)
    lists = run.recommend([known[:2], []], k=50, mask_seen=False)
    of = np.asarray(lists["history"])
    names = np.asarray(lists[c.ITEM_ID].to_pylist())
    assert [sorted(names[of == h]) for h in (0, 1)] == [known, known]
    assert f"{len(ITEMS)} items" in repr(run)
    ids = (np.asarray(stable_hash(pa.array([f"x{i}" for i in range(99)]))) % IDS).astype(int)
    strange = next(i for i, id_ in enumerate(ids) if made.names[id_] is None)
    with pytest.raises(DataError, match=f"x{strange}"):
        run.recommend([[f"x{strange}"]])
    with pytest.warns(UserWarning, match="1 interactions"):
        run.recommend([[f"x{strange}", known[0]]], unknown="skip")
