"""A small run folder written by hand, with the files that the stages write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.config import RunConfig, dump_job
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest, ShardFile
from p5dist.storage import RunFolder

DAY = 86_400 * c.SECOND
TITLES = ["Alien", "<script>alert('x')</script>", "Babe", "Casino", None]
# Items of users 1, 2, 3 in the order of time; the last is held out.
HISTORIES = [[1, 2, 3], [2, 4, 5, 1], [3, 4, 2]]


def small_job(storage: Path, **changes: Any) -> RunConfig:
    """A job with every stage."""
    values: dict[str, Any] = {
        "name": "small",
        "storage": str(storage),
        "prepare": {
            "source": {
                "files": "log.csv",
                "columns": {"timestamp": "timestamp", "rating": "rating"},
            },
            "items": {"files": "items.csv", "id": "item_id", "title": "title"},
        },
        "pretrain": {"steps": 40, "batch_size": 64},
        "finetune": {"rating": {"task": {"kind": "rating"}, "steps": 40, "batch_size": 64}},
        "report": {"users": 3},
    }
    return RunConfig.model_validate({**values, **changes})


def write_prepared(job: RunConfig, folder: RunFolder, titles: list[str | None] = TITLES) -> None:
    """Two shards of histories, vocabularies, titles, profile, manifest."""
    prepare = Path(folder.prepare.path)
    for name in ("shards", "vocabulary", "attributes"):
        (prepare / name).mkdir(parents=True, exist_ok=True)
    folder.job.write_text(dump_job(job))
    shards, row = [], 0
    for i, users in enumerate(([1, 2], [3])):
        path = f"shards/part-{i:05d}.parquet"
        pq.write_table(_histories(users), prepare / path, row_group_size=1)
        size = (prepare / path).stat().st_size
        groups = (1,) * len(users)
        shards.append(ShardFile(path=path, bytes=size, first_row=row, groups=groups))
        row += len(users)
    _vocabulary(prepare / "vocabulary/user.parquet", ["ann", "bob", "cem"])
    _vocabulary(prepare / "vocabulary/item.parquet", [f"i{n}" for n in range(1, 6)])
    attributes = {c.ID: list(range(1, 6)), c.TITLE: pa.array(titles, pa.string())}
    pq.write_table(pa.table(attributes), prepare / "attributes/item.parquet")
    (folder.prepare / "profile.json").write_json(profile())
    Manifest(
        fingerprint="data0123",
        shards=tuple(shards),
        rows_in=13,
        rows_kept=10,
        rows_rejected={"duplicate": 1, "bad_rating": 2},
        rows_by_split={"train": 4, "validation": 3, "test": 3},
        users=3,
        users_by_split={"train": 3, "validation": 3, "test": 3},
        items=5,
        longest_history=4,
        split="leave one out",
    ).save(folder.prepare)


def profile() -> dict[str, Any]:
    return {
        "interactions": 10, "users": 3, "items": 5, "density": 10 / 15,
        "rows_in": 13, "rows_rejected": {"duplicate": 1, "bad_rating": 2},
        "lengths": {"edges": [1, 3, 4, 5], "counts": [0, 2, 1]},
        "item_counts": {"rank": [1, 2, 4, 5], "count": [3, 2, 2, 1]},
        "per_day": {"day": ["2020-01-01", "2020-01-02", "2020-01-03"], "count": [3, 3, 4]},
        "ratings": {"value": [1.0, 2.0, 4.0], "count": [3, 2, 5]},
        "tied_share": 0.25,
        "warnings": ["25 % of the interactions share their time with the one before"],
    }  # fmt: skip


def write_trained(job: RunConfig, folder: RunFolder, stage: str) -> None:
    """40 steps of which every tenth is logged, a result and a plan."""
    place = folder.training(stage).make()
    lines = [
        {"step": 10 * n, "epoch": (n - 1) // 2, "loss": 8.0 / n, "samples_per_second": 100.0 * n,
         "seconds": {"data": 0.1, "forward": 0.3}, "lr": 0.001}
        for n in (1, 2, 3, 4)
    ]  # fmt: skip
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "result.json").write_json({**_provenance(job, stage, 75.0), "restarts": 2})
    tables = [{"table": "item", "sharding": "row_wise", "rows": 6, "dim": 64, "ranks": [0, 1]}]
    (place / "plan.json").write_json({"tables": tables})


def write_evaluated(job: RunConfig, folder: RunFolder) -> None:
    evaluate = folder.evaluate.make()
    targets = {
        c.USER: [1, 2, 3],
        c.ITEM: [3, 1, 2],
        c.RANK: [4, 1, 2],
        "predicted": [3.5, 3.0, 3.25],
    }
    (evaluate / "targets.parquet").write_table(pa.table(targets))
    (evaluate / "result.json").write_json(
        {
            "metrics": {
                "hr@10": {"value": 0.5, "low": 0.4, "high": 0.6},
                "ndcg@10": {"value": 0.3125, "low": 0.25, "high": 0.375},
                "coverage@10": {"value": 0.6},
                "rmse": {"value": 0.9, "low": 0.88, "high": 0.92},
            },
            "baselines": {
                "popularity": {"hr@10": 0.2, "ndcg@10": 0.1},
                "item_to_item": {"hr@10": 0.4, "ndcg@10": 0.25},
                "global_mean": {"rmse": 1.1},
                "user_item_bias": {"rmse": 1.0},
            },
            "protocol": {
                "split": "test",
                "catalogue": 5,
                "mask_seen": True,
                "max_length": 200,
                "ties": "lower id first",
                "seed": 1,
                "users": 3,
            },
            **_provenance(job, "evaluate", 3.0),
        }
    )


def of_lists() -> dict[str, Any]:
    """What evaluate/result.json says of lists, segments, head and tail, and baselines."""

    def segment(label: str, targets: int, value: float, low: float | None) -> dict[str, Any]:
        high = None if low is None else 2 * value - low
        return {
            "label": label, "targets": targets, "users": targets,
            "metrics": {"hr@10": {"value": 0.5, "low": low, "high": high},
                        "ndcg@10": {"value": value, "low": low, "high": high}},
            "baselines": {"popularity": {"hr@10": 0.1, "ndcg@10": 0.1},
                          "item_to_item": {"hr@10": 0.1, "ndcg@10": 0.2}},
        }  # fmt: skip

    shares = {"head": (0.1, 0.2, 0.5), "middle": (0.3, 0.6, 0.3), "tail": (0.6, 0.2, 0.2)}
    return {
        "metrics": {
            "ndcg@10": {"value": 0.3125, "low": 0.25, "high": 0.375},
            "recall@10": {"value": 0.5, "low": 0.4, "high": 0.6},
            "gini@10": {"value": 0.75, "low": None, "high": None},
            "popularity@10": {"value": 1234.56, "low": None, "high": None},
        },
        "baselines": {
            "popularity": {"ndcg@10": 0.1, "recall@10": 0.2, "gini@10": 0.9, "popularity@10": 4321},
        },
        "metric_info": {
            key: {"title": title, "label": label, "higher_is_better": True, "compared": compared}
            for key, title, label, compared in (
                ("ndcg@10", "Ranking", "NDCG@10", True),
                ("recall@10", "Ranking", "recall@10", True),
                ("gini@10", "Lists", "gini@10", False),
                ("popularity@10", "Lists", "popularity@10", False),
            )
        },
        "segments": [
            {"family": "history length",
             "segments": [segment("1–4", 2, 0.4, 0.3), segment("50+", 1, 0.1, None)]},
            {"family": "item in training", "segments": [segment("warm", 3, 0.3, 0.2)]},
            {"family": "genre", "segments": [segment("<b>", 2, 0.4, 0.3), segment("x", 1, 0, 0)]},
        ],
        "long_tail": {
            "k": 10,
            "parts": [
                {"label": label, "items": items, "training": training, "targets": training,
                 "listed": {"model": listed, "item_to_item": listed}}
                for label, (items, training, listed) in shares.items()
            ],
        },
        "protocol": {
            "split": "test", "catalogue": 5, "users": 3, "targets": 4, "lists": 3,
            "baselines_fitted_on": {"popularity": "all training interactions"},
        },
    }  # fmt: skip


def two_tasks() -> dict[str, Any]:
    """What evaluate/result.json says of two tasks with the same metrics, and of interactions."""
    tasks: dict[str, Any] = {
        "finetune/both/short": {
            "kind": "wait",
            "metrics": {
                "minutes": {"value": 2.0, "low": 1.5, "high": 2.5},
                "late": {"value": 0.5, "low": None, "high": None},
            },
            "baselines": {"always": {"minutes": 4.0, "late": 0.25}},
        },
        "finetune/both/long": {
            "kind": "wait",
            "metrics": {
                "minutes": {"value": 9.0, "low": None, "high": None},
                "late": {"value": 0.5, "low": None, "high": None},
            },
            "baselines": {"always": {"minutes": 6.0, "late": 0.25}},
        },
        "finetune/nothing": {"kind": "wait", "metrics": {}, "baselines": {}},
    }
    labels = {"hr@10": "HR@10", "ndcg@10": "NDCG@10"}
    wait = {"title": "Wait", "higher_is_better": False}
    return {
        "metrics": {
            "hr@10": {"value": 0.5, "low": 0.4, "high": 0.6},
            "ndcg@10": {"value": 0.3125, "low": 0.25, "high": 0.375},
            **tasks["finetune/both/long"]["metrics"],
        },
        "baselines": {
            "popularity": {"hr@10": 0.2, "ndcg@10": 0.1},
            **tasks["finetune/both/long"]["baselines"],
        },
        "tasks": tasks,
        "metric_info": {
            **{
                key: {"title": "Ranking", "label": label, "higher_is_better": True}
                for key, label in labels.items()
            },
            "minutes": {**wait, "label": "minutes off", "compared": True},
            "late": {**wait, "label": "share late", "higher_is_better": True, "compared": False},
        },
        "protocol": {
            "split": "test", "catalogue": 5, "mask_seen": True, "users": 3, "interactions": 12,
            "targets": 3, "targets_wanted": "all", "repeats": 1,
            "left_out": {"no_history": 4, "user_not_chosen": 5},
        },
    }  # fmt: skip


def write_recommended(job: RunConfig, folder: RunFolder) -> None:
    """One list of two items each; ann's holds her held-out item."""
    recommend = folder.recommend.make()
    lists = [("ann", "i3", "i4"), ("bob", "i3", "i2"), ("cem", "i5", "i1")]
    lines = [(user, rank, item) for user, *items in lists for rank, item in enumerate(items, 1)]
    rows = [
        {c.USER_ID: u, c.RANK: r, c.ITEM_ID: i, c.TITLE: TITLES[int(i[1:]) - 1], c.SCORE: 1 / r}
        for u, r, i in lines
    ]
    table = pa.Table.from_pylist(rows, schema=c.RECOMMENDATION)
    (recommend / "part-00000.parquet").write_table(table)
    (recommend / "result.json").write_json(
        {**_provenance(job, "recommend", 2.0), "rows": 6, "users": 3, "k": 2}
    )


def write_all(job: RunConfig, folder: RunFolder) -> None:
    """Every stage but the report."""
    write_prepared(job, folder)
    for stage in job.trainings():
        write_trained(job, folder, stage)
    write_evaluated(job, folder)
    write_recommended(job, folder)


def _provenance(job: RunConfig, stage: str, seconds: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "job_fingerprint": job.fingerprint(stage),
        "data_fingerprint": "data0123",
        "finished": "2026-11-24T04:45:00+00:00",
        "seconds": seconds,
        "versions": {"p5dist": "0.1.0", "torch": "2.13.0"},
        "machine": {"platform": "Linux", "cores": 2, "memory_bytes": 8 * 1024**3},
    }


def _histories(users: list[int]) -> pa.Table:
    items = [HISTORIES[u - 1] for u in users]
    splits = [[0] * (len(h) - 2) + [1, 2] for h in items]
    values = {
        c.USER: users,
        c.ITEM: items,
        c.TIMESTAMP: [[DAY * i for i in range(len(h))] for h in items],
        c.EVENT: [[0] * len(h) for h in items],
        c.RATING: [[float(i % 5 + 1) for i in h] for h in items],
        c.SPLIT: splits,
    }
    table = pa.table(values, schema=c.HISTORY)
    return table.append_column(c.CONTINUES, pa.repeat(False, len(table)))


def _vocabulary(place: Path, names: list[str]) -> None:
    ids = list(range(1, len(names) + 1))
    values = {c.ID: ids, c.EXTERNAL_ID: names, c.COUNT: [1] * len(names)}
    pq.write_table(pa.table(values, schema=c.VOCABULARY), place)
