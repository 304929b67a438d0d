"""A trained model in one process: results in the caller's order of histories, and its vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.errors import CheckpointError
from p5dist.inference.scorer import Scorer, load_scorer
from p5dist.ranking.targets import Rule, Targets
from p5dist.storage import RunFolder
from p5dist.tasks.build import build_model, make_collate, task_of
from p5dist.tasks.task import Context
from tests.ranking.histories_of import whole_users
from tests.small_data import small_job, write_small_data


def scorer(tmp_path: Path, stage: str, *overrides: str) -> tuple[Scorer, Histories]:
    job = small_job(tmp_path, "prepare.source.columns.event=event", *overrides)
    folder = write_small_data(job)
    manifest = Manifest.load(folder.prepare)
    torch.manual_seed(1)
    model = build_model(job, stage, manifest, torch.device("cpu"))
    table = (folder.prepare / "shards/part-00000.parquet").read_table()
    collate = make_collate(job, folder, manifest, job.trainings()[stage])
    return Scorer(model, collate, Catalogue(manifest.items), 8), Histories.from_table(table)


def test_user_vectors_are_in_the_order_of_the_caller(tmp_path: Path) -> None:
    model, histories = scorer(tmp_path, "pretrain")
    assert len(set(histories.lengths.tolist())) > 5
    together = model.user_vectors(histories)
    for i in range(len(histories)):
        alone = model.user_vectors(histories.take(np.asarray([i])))
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_an_empty_history_has_the_zero_vector(tmp_path: Path) -> None:
    model, histories = scorer(tmp_path, "pretrain")
    nothing = histories.where(np.zeros(len(histories.item), dtype=bool))
    assert not model.user_vectors(nothing).any()


def test_item_vectors_are_id_row_plus_mean_of_attributes(tmp_path: Path) -> None:
    model, _ = scorer(tmp_path, "pretrain")
    tables = model.model.backbone.items
    ids = tables.ids.embeddings["item"].weight
    genres = tables.bags.embedding_bags["item_genre"].weight  # type: ignore[union-attr]
    vectors = model.item_vectors()
    assert vectors.shape == (30, 16)
    assert torch.allclose(vectors[0], ids[1])  # item 1 has no genre
    assert torch.allclose(vectors[1], ids[2] + genres[2])  # item 2 has genre 2


def test_ratings_are_in_the_order_of_the_caller(tmp_path: Path) -> None:
    model, histories = scorer(tmp_path, "finetune/rating")
    owner, item = np.asarray([3, 0, 3, 7]), np.asarray([5, 5, 9, 1])
    time = np.zeros(4, dtype=np.int64)
    together = model.predict("", histories, owner, item, time)
    assert len(set(together.tolist())) == 4
    for m in range(4):
        alone = model.predict(
            "", histories.take(owner[m : m + 1]), np.zeros(1, np.int64), item[m : m + 1], time[:1]
        )
        assert together[m] == pytest.approx(alone[0], abs=1e-5)


def test_a_shuffled_history_is_the_same_wherever_the_rows_of_its_user_are(tmp_path: Path) -> None:
    model, histories = scorer(tmp_path, "finetune/rating")
    model.shuffled = True
    elsewhere = replace(histories, row=histories.row + 1000)
    owner, item = np.arange(len(histories)), np.full(len(histories), 5)
    found = [model.predict("", h, owner, item, item) for h in (histories, elsewhere)]
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("kind", ["masked", "skip_gram"])
def test_user_vectors_of_other_objectives_are_in_the_order_of_the_caller(
    tmp_path: Path, kind: str
) -> None:
    model, histories = scorer(tmp_path, "pretrain", f"pretrain.objective={{kind: {kind}}}")
    together = model.user_vectors(histories)
    assert together.shape == (len(histories), 16)
    for i in range(len(histories)):
        alone = model.user_vectors(histories.take(np.asarray([i])))
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_a_masked_model_is_asked_for_the_item_behind_the_last(tmp_path: Path) -> None:
    """Its user vector is the state of a hidden interaction after the last max_length - 1."""
    model, histories = scorer(tmp_path, "pretrain", "pretrain.objective={kind: masked}")
    longest = histories.take(np.argsort(-histories.lengths)[:1])
    assert longest.lengths[0] > 8
    vector = model.user_vectors(longest)[0]
    backbone = model.model.backbone
    batch = model.collate(longest.last(7))
    assert batch.hidden is not None
    assert batch.hidden.tolist() == [False] * 7 + [True]
    assert batch.items.values()[batch.token[:7]].tolist() == longest.item[-7:].tolist()
    with torch.inference_mode():
        torch.testing.assert_close(vector, backbone(batch).states[7], rtol=1e-5, atol=1e-6)
    changed = replace(longest, item=np.where(np.arange(len(longest.item)) == 3, 1, longest.item))
    assert torch.equal(model.user_vectors(changed)[0], vector), "an item out of its sight"


def test_a_skip_gram_user_is_the_mean_of_the_last_items(tmp_path: Path) -> None:
    model, histories = scorer(
        tmp_path, "pretrain", "pretrain.objective={kind: skip_gram, user_items: 3}"
    )
    vectors = model.user_vectors(histories)
    items = model.item_vectors()
    for i in range(len(histories)):
        last = histories.item[histories.offsets[i] : histories.offsets[i + 1]][-3:]
        # The map from centres to contexts is the identity before training; √16 is the scale.
        assert torch.allclose(vectors[i], 4 * items[last - 1].mean(0), atol=1e-6)


CLICK = "finetune.rating.task={kind: click, positive: [buy], negatives: 2}"


def click_targets(tmp_path: Path) -> tuple[Targets, Any, Scorer]:
    """Targets of the test split, the evaluation of the click task, and an untrained model."""
    model, histories = scorer(tmp_path, "finetune/rating", CLICK)
    job = small_job(tmp_path, "prepare.source.columns.event=event", CLICK)
    prepare = RunFolder.of(job.storage, job.name).prepare
    context = Context(job, Manifest.load(prepare), prepare)
    targets = Targets.find(whole_users(histories), Rule(c.TEST, sessions=False))
    assert len(targets.owner) > 5
    return targets, task_of(job, "finetune/rating", "").evaluation(context), model


def test_clicks_do_not_depend_on_the_other_histories_of_the_batch(tmp_path: Path) -> None:
    targets, evaluation, model = click_targets(tmp_path)
    (everything,) = targets.batches(1000)
    together = evaluation.examples(model.task(""), everything, None)
    assert len(set(together["model"].round(5).tolist())) > 5
    parts = [evaluation.examples(model.task(""), part, None) for part in targets.batches(1)]

    def rows(found: dict[str, np.ndarray]) -> list[tuple[int, float, float]]:
        columns = (found["user"], found["label"], found["model"].round(5))
        return [(int(u), float(y), float(p)) for u, y, p in zip(*columns, strict=True)]

    assert sorted(rows(together)) == sorted(row for part in parts for row in rows(part))


def test_examples_of_the_click_task(tmp_path: Path) -> None:
    """Every target with its event as label; beside each yes two items that the user has not had."""
    targets, evaluation, _ = click_targets(tmp_path)
    (batch,) = targets.batches(1000)
    asked: list[tuple[int, int]] = []

    class Asked:
        def predict(
            self, histories: Histories, owner: np.ndarray, item: np.ndarray, time: np.ndarray
        ) -> np.ndarray:
            asked.extend(zip(histories.user[owner].tolist(), item.tolist(), strict=True))
            return np.full(len(item), 0.5)

    found = evaluation.examples(Asked(), batch, None)
    m = len(batch.owner)
    yes = batch.event == 2
    assert yes.any()
    assert found["label"].tolist() == yes.astype(float).tolist() + [0.0] * (2 * int(yes.sum()))
    assert asked[:m] == list(zip(batch.user.tolist(), batch.item.tolist(), strict=True))
    whole = batch.everything
    had = {
        int(user): set(whole.item[a:b].tolist())
        for user, a, b in zip(whole.user, whole.offsets, whole.offsets[1:], strict=False)
    }
    assert sorted(u for u, _ in asked[m:]) == sorted(np.repeat(batch.user[yes], 2).tolist())
    assert all(item not in had[user] for user, item in asked[m:])


def test_a_stage_without_checkpoint(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    with pytest.raises(CheckpointError, match="run the training stage"):
        load_scorer(job, write_small_data(job), "pretrain")
