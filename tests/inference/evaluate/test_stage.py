"""The evaluate stage on a small prepared folder, against loops over plain lists."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, DataError, TrainingError
from p5dist.inference.evaluate import stage
from p5dist.inference.evaluate.table import table
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.results import groups
from p5dist.storage import RunFolder
from p5dist.tasks.rating.evaluation import RatingEvaluation
from tests.fake_scorer import FakeScorer, click_of, item_matrix, load_broken, load_fake, rating_of
from tests.ranking.histories_of import histories
from tests.ranking.plain import whole
from tests.small_data import small_job, write_small_data

ITEMS = 30

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder]:
    job = small_job(
        tmp_path_factory.mktemp("run"),
        "evaluate.k=[1, 10, 5]", "evaluate.batch_size=7", "evaluate.bootstrap=300",
        "feed.unit_rows=16", "scale.actors=2",
    )  # fmt: skip
    return job, write_small_data(job, items=ITEMS)


@pytest.fixture(scope="module")
def result(prepared: tuple[RunConfig, RunFolder], ray_session: None) -> dict[str, Any]:
    job, folder = prepared
    folder.evaluate.make()
    (folder.evaluate / "result.json").write_text("of a run that was interrupted")
    return stage.run(job, folder, load=load_fake)


def users_of(folder: RunFolder) -> list[dict[str, Any]]:
    shards = sorted(Path(folder.prepare.path, "shards").glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def cases(folder: RunFolder, split: int) -> Iterator[tuple[int, list[int], int, float]]:
    """(user, history, target, rating) of every interaction of ``split``."""
    for row in users_of(folder):
        rows = list(zip(row[c.ITEM], row[c.SPLIT], row[c.RATING], strict=True))
        for item, its_split, rating in rows:
            if its_split == split:
                yield row[c.USER], [i for i, s, _ in rows if s < split], item, rating


def order(scores: np.ndarray, history: list[int]) -> list[int]:
    ids = [i for i in range(1, ITEMS + 1) if i not in history]
    return sorted(ids, key=lambda i: (-scores[i - 1], i))


def rank_in(ids: list[int], target: int) -> int | None:
    """From 1; None for a target that the user has had, which cannot be listed."""
    return ids.index(target) + 1 if target in ids else None


def model_scores(history: list[int]) -> np.ndarray:
    matrix = item_matrix(ITEMS)
    return matrix @ matrix[np.array(history) - 1].sum(0)


def test_ranking_metrics(prepared: tuple[RunConfig, RunFolder], result: dict[str, Any]) -> None:
    folder = prepared[1]
    targets = list(cases(folder, c.TEST))
    train = [i for r in users_of(folder) for i, s in zip(r[c.ITEM], r[c.SPLIT]) if s == c.TRAIN]  # noqa: B905
    popularity = np.bincount(train, minlength=ITEMS + 1)[1:]
    for name, scores_of in (("model", model_scores), ("popularity", lambda _: popularity)):
        lists = [order(scores_of(history), history) for _, history, _, _ in targets]
        found_ranks = [rank_in(ids, t) for ids, (*_, t, _) in zip(lists, targets, strict=True)]
        ranks = np.array([10**9 if rank is None else rank for rank in found_ranks])
        assert None in found_ranks, "no target repeats an item, which proves less"
        expected = {"accuracy": (ranks == 1).mean()}
        for k in (1, 5, 10):
            expected[f"hr@{k}"] = (ranks <= k).mean()
            expected[f"ndcg@{k}"] = np.where(ranks <= k, 1 / np.log2(ranks + 1), 0).mean()
            expected[f"mrr@{k}"] = np.where(ranks <= k, 1 / ranks, 0).mean()
            expected[f"coverage@{k}"] = len({i for ids in lists for i in ids[:k]}) / ITEMS
        if name == "model":
            found = {key: result["metrics"][key]["value"] for key in expected}
            intervals = {key: m for key, m in result["metrics"].items() if key in expected}
            assert all(
                m["low"] <= m["value"] <= m["high"]
                for key, m in intervals.items()
                if "coverage" not in key
            )
        else:
            found = {key: result["baselines"][name][key] for key in expected}
        assert found == pytest.approx(expected)


def test_metrics_of_lists_with_one_target_are_those_of_targets(result: dict[str, Any]) -> None:
    metrics = result["metrics"]
    assert result["protocol"]["lists"] == result["protocol"]["targets"]
    for k in (1, 5, 10):
        for name, same, share in (
            ("precision", "hr", 1 / k), ("recall", "hr", 1), ("map", "mrr", 1),
            ("list_ndcg", "ndcg", 1),
        ):  # fmt: skip
            of_lists, of_targets = metrics[f"{name}@{k}"], metrics[f"{same}@{k}"]
            scaled = {key: value * share for key, value in of_targets.items()}
            assert of_lists["value"] == pytest.approx(scaled["value"])
            assert of_lists["low"] == pytest.approx(scaled["low"], abs=0.05)
    shown = [key for group in groups(result) for key in group.metrics]
    assert "recall@10" not in shown and "diversity@10" in shown
    several = {**result, "protocol": {**result["protocol"], "lists": 1}}
    assert "recall@10" in groups(several)[0].metrics


def test_counts_share_the_ranking(tmp_path: Path) -> None:
    share = 0.3
    job = small_job(tmp_path, f"ranking.item_to_item={share}")
    folder = write_small_data(job, items=ITEMS)
    result = stage.run(job, folder, load=load_fake)
    rows = users_of(folder)
    train = [
        [i for i, s in zip(row[c.ITEM], row[c.SPLIT], strict=True) if s == c.TRAIN] for row in rows
    ]
    counts = ItemToItem.fit([histories(train)], Catalogue(ITEMS))
    ranks: dict[str, list[int | None]] = {"model": [], "model_alone": []}
    for _, history, target, _ in cases(folder, c.TEST):
        counted = whole(counts.scores(histories([history])))
        remembered = counted[0].astype(np.float64)
        logits = model_scores(history).astype(np.float64)
        learned = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        both = (1 - share) * learned + share * remembered / remembered.sum()
        for name, scores in (("model", both), ("model_alone", learned)):
            ranks[name].append(rank_in(order(scores, history), target))
    assert ranks["model"] != ranks["model_alone"]
    written = pq.read_table(Path(folder.evaluate.path, "targets.parquet"))
    assert written[c.RANK].to_pylist() == ranks["model"]
    alone = np.array([10**9 if rank is None else rank for rank in ranks["model_alone"]])
    expected = np.where(alone <= 10, 1 / np.log2(alone + 1), 0).mean()
    assert result["baselines"]["model_alone"]["ndcg@10"] == pytest.approx(expected)
    assert result["protocol"]["ranking_item_to_item"] == share


def test_a_part_of_the_users_has_the_ranks_that_it_has_among_all(
    prepared: tuple[RunConfig, RunFolder], result: dict[str, Any]
) -> None:
    job, folder = prepared
    place = Path(folder.evaluate.path, "targets.parquet")
    everybody = {row[c.USER]: row for row in pq.read_table(place).to_pylist()}
    assert job.evaluate is not None
    files = [Path(folder.evaluate.path, name) for name in ("targets.parquet", "result.json")]
    before = [file.read_bytes() for file in files]
    some = job.evaluate.model_copy(update={"users": len(everybody) // 2})
    for _ in range(2):
        found = stage.run(job.model_copy(update={"evaluate": some}), folder, load=load_fake)
        rows = pq.read_table(place).to_pylist()
        assert all(row == everybody[row[c.USER]] for row in rows)
        assert found["protocol"]["users"] == len({row[c.USER] for row in rows})
        assert 0.25 < len(rows) / len(everybody) < 0.75
    for file, content in zip(files, before, strict=True):  # other tests read them
        file.write_bytes(content)


def test_rating_metrics(prepared: tuple[RunConfig, RunFolder], result: dict[str, Any]) -> None:
    targets = list(cases(prepared[1], c.TEST))
    user, item, rating = (np.array([t[i] for t in targets]) for i in (0, 2, 3))
    error = rating_of(user, item).clip(1, 5) - rating
    assert result["metrics"]["rmse"]["value"] == pytest.approx((error**2).mean() ** 0.5)
    assert result["metrics"]["mae"]["value"] == pytest.approx(np.abs(error).mean())
    # The manifest of the small data states a mean of 3.
    assert result["baselines"]["global_mean"] == pytest.approx(
        {"rmse": ((rating - 3) ** 2).mean() ** 0.5, "mae": np.abs(rating - 3).mean()}
    )
    assert set(result["baselines"]["user_item_bias"]) == {"rmse", "mae"}
    assert result["tasks"]["finetune/rating"]["examples"] == len(targets)


def test_only_rated_interactions_are_examples_of_a_rating_task() -> None:
    user, rating = np.array([1, 1, 2]), np.array([4.0, np.nan, 2.0])
    evaluation = RatingEvaluation(Manifest.model_construct(items=9, rating_mean=3.0))
    examples = {"user": user, "rating": rating, "model": np.array([3.0, 5.0, 2.0])}
    assert evaluation.number(examples) == 2
    measured = evaluation.measure(examples, resamples=0, seed=0)
    assert measured["model"]["mae"].value == 0.5


def test_every_one_of_two_rating_tasks_is_evaluated_and_written(tmp_path: Path) -> None:
    task = "{task: {kind: rating}, steps: 1, batch_size: 12}"
    job = small_job(tmp_path, f"finetune={{a: {task}, b: {task}}}")
    folder = write_small_data(job, items=ITEMS)

    def load(job: RunConfig, folder: RunFolder, name: str) -> FakeScorer:
        return FakeScorer(Catalogue(ITEMS), rating_of if name == "finetune/a" else click_of)

    result = stage.run(job, folder, load=load)
    assert list(result["tasks"]) == ["finetune/a", "finetune/b"]
    first, second = (result["tasks"][path]["metrics"]["rmse"]["value"] for path in result["tasks"])
    assert abs(first - second) > 0.01
    written = pq.read_table(Path(folder.evaluate.path, "targets.parquet"))
    rating = written[c.RATING].to_numpy()
    for path, measured in result["tasks"].items():
        error = written[f"{path}:predicted"].to_numpy() - rating
        expected = np.sqrt(np.nanmean(np.square(error)))
        assert measured["metrics"]["rmse"]["value"] == pytest.approx(expected)


def test_what_is_on_disk(prepared: tuple[RunConfig, RunFolder], result: dict[str, Any]) -> None:
    job, folder = prepared
    targets = list(cases(folder, c.TEST))
    assert (folder.evaluate / "result.json").read_json() == result
    protocol = result["protocol"]
    assert protocol["users"] == protocol["targets"] == len(targets)
    assert (protocol["split"], protocol["catalogue"], protocol["skipped"]) == ("test", ITEMS, 0)
    assert protocol["mask_seen"] is True and protocol["max_length"] == 8 and protocol["seed"] == 3
    assert protocol["repeats"] == sum(item in history for _, history, item, _ in targets) > 0
    assert protocol["left_out"] == {} and protocol["interactions"] == len(targets)
    assert result["job_fingerprint"] == job.fingerprint("evaluate")
    assert result["data_fingerprint"] == "small"
    rows = (folder.evaluate / "targets.parquet").read_table().to_pylist()
    assert [(row["user"], row["item"]) for row in rows] == [(u, i) for u, _, i, _ in targets]
    for row, (_, history, target, rating) in zip(rows, targets, strict=True):
        assert row["rank"] == rank_in(order(model_scores(history), history), target)
        assert row["rating"] == rating
        assert row["history_length"] == len(history)
        assert row["repeated"] == (target in history)
    times = {t for r in users_of(folder) for t, s in zip(r[c.TIMESTAMP], r[c.SPLIT]) if s == c.TEST}  # noqa: B905
    assert {row["timestamp"] for row in rows} == times
    assert {f"rank:{name}" for name in ("popularity", "ppmi_svd", "item_to_item")} <= set(rows[0])
    assert folder.evaluate.children() == ["result.json", "targets.parquet"]


def shown(result: dict[str, Any], width: int) -> list[str]:
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as captured:
        console.print(table(result))
    return captured.get().splitlines()


def test_table_shows_metrics_beside_baselines(result: dict[str, Any]) -> None:
    lines = {line.split()[0]: line for line in shown(result, 80) if line.strip()}
    ndcg = result["metrics"]["ndcg@10"]
    for value in (*ndcg.values(), result["baselines"]["item_to_item"]["ndcg@10"]):
        assert f"{value:.4f}" in lines["ndcg@10"]
    assert f"{result['baselines']['user_item_bias']['rmse']:.4f}" in lines["rmse"]
    assert f"{result['metrics']['gini@10']['value']:.4f}" in lines["gini@10"]
    keys = [line.split()[0] for line in shown(result, 80) if "@" in line]
    assert keys[:4] == ["ndcg@1", "ndcg@5", "ndcg@10", "hr@1"]
    assert keys[9:] == [
        f"{name}@10" for name in ("serendipity", "coverage", "gini", "popularity", "novelty",
                                  "diversity")
    ]  # fmt: skip


def test_table_with_many_baselines_fits_a_terminal(result: dict[str, Any]) -> None:
    names = ["popularity", "popularity_7d", "last_item", "last_cart", "item_to_item", "ppmi_svd"]
    ranked = result["baselines"]["popularity"]
    several = {name: {**ranked, "popularity@10": 123_456.7} for name in names}
    lines = shown({**result, "baselines": several}, 80)
    assert sum(line.startswith("ndcg@10") for line in lines) == 2
    assert not any("…" in line for line in lines)
    rows = [line for line in lines if line.startswith("popularity@10")]
    assert rows[0].count("123k") == 5 and rows[1].count("123k") == 1


def test_nan_scores_leave_no_result(prepared: tuple[RunConfig, RunFolder], tmp_path: Path) -> None:
    job = small_job(tmp_path, "scale.actors=2")
    folder = write_small_data(job)
    folder.evaluate.make()
    (folder.evaluate / "result.json").write_text("of an earlier run")
    with pytest.raises(TrainingError, match="not finite numbers"):
        stage.run(job, folder, load=load_broken)
    assert folder.evaluate.children() == []
    end = time.monotonic() + 30
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < end, "the actors still hold their CPUs"
        time.sleep(0.2)


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    job = small_job(tmp_path, "pretrain=null", "finetune={}")
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        stage.run(job, write_small_data(job), load=load_fake)


def test_a_split_without_targets(tmp_path: Path) -> None:
    job = small_job(tmp_path, "evaluate.split=validation")
    folder = write_small_data(job)
    manifest = Manifest.load(folder.prepare)
    rows = manifest.rows_by_split | {"validation": 0}
    manifest.model_copy(update={"rows_by_split": rows}).save(folder.prepare)
    with pytest.raises(DataError, match="no validation interactions"):
        stage.run(job, folder, load=load_fake)


def test_users_chosen_by_chance_of_whom_none_has_a_target(tmp_path: Path) -> None:
    job = small_job(tmp_path, "evaluate.users=1", "seed=1")
    with pytest.raises(DataError, match="none of the users chosen by chance") as caught:
        stage.run(job, write_small_data(job), load=load_fake)
    assert "raise evaluate.users" in str(caught.value)


def test_without_targets_of_the_events_the_error_names_both_settings(tmp_path: Path) -> None:
    job = small_job(
        tmp_path, "prepare.source.columns.event=event", "evaluate={events: [buy]}",
        "prepare.split={kind: leave_one_out, events: [view]}",
    )  # fmt: skip
    folder = write_small_data(job, events=1)
    with pytest.raises(DataError, match="is of the events that are evaluated") as caught:
        stage.run(job, folder, load=load_fake)
    said = str(caught.value)
    assert "where: evaluate.events" in said and "prepare.split.events" in said
    assert "value: buy; leave one out; left out: other_event " in said
