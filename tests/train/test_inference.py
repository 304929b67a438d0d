"""A trained model in one process: the caller's order of histories, and the vectors it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from p5dist.errors import CheckpointError
from p5dist.feed.histories import Histories
from p5dist.manifest import Manifest
from p5dist.models.build import build_model
from p5dist.train.inference import Scorer, load_scorer
from p5dist.train.session import make_collate
from tests.small_data import small_job, write_small_data


def scorer(tmp_path: Path, stage: str) -> tuple[Scorer, Histories]:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    manifest = Manifest.load(folder.prepare)
    torch.manual_seed(1)
    model = build_model(job, stage, manifest, torch.device("cpu"))
    table = (folder.prepare / "shards/part-00000.parquet").read_table()
    collate = make_collate(job, folder, manifest, job.trainings()[stage])
    return Scorer(model, collate, manifest.items, 8), Histories.from_table(table)


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
    owner = np.asarray([3, 0, 3, 7])
    item = np.asarray([5, 5, 9, 1])
    together = model.ratings(histories, owner, item)
    assert len(set(together.tolist())) == 4
    for m in range(4):
        alone = model.ratings(
            histories.take(owner[m : m + 1]), np.zeros(1, dtype=np.int64), item[m : m + 1]
        )
        assert torch.allclose(together[m], alone[0], atol=1e-5)


def test_a_stage_without_checkpoint(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    with pytest.raises(CheckpointError, match="run the training stage"):
        load_scorer(job, write_small_data(job), "pretrain")
