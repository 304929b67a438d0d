"""The share of attributes in the score of an item, by hand and from a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import p5dist
from p5dist.config import dump_job
from p5dist.data.attributes import Attributes
from p5dist.data.histories import Histories
from p5dist.inference import recommend
from p5dist.inference.attributed import AttributeVectors
from p5dist.inference.scorer import load_scorer
from p5dist.inference.vectors import Trained
from tests.data.test_histories import histories
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data


def test_shares_by_hand() -> None:
    """Item 1 has the genres 1 and 2 and the brand 1, item 2 has no genre and the brand 2."""
    attributes = Attributes(
        ("genre", "brand"),
        (np.array([0, 0, 2, 2]), np.array([0, 0, 1, 2])),
        (np.array([1, 2]), np.array([1, 2])),
    )
    genre = torch.tensor([[9.0, 9.0], [1.0, 0.0], [3.0, 2.0]])  # row 0 is padding
    brand = torch.tensor([[9.0, 9.0], [-1.0, 5.0], [4.0, 0.0]])
    parts = AttributeVectors(attributes, (genre, brand))
    assert parts(np.array([1, 2])).tolist() == [[[2, 1], [-1, 5]], [[0, 0], [4, 0]]]
    # The user reads the first number: genre adds 2, brand -1, and of the score 7 the row adds 6.
    users, items = torch.tensor([[1.0, 0.0]]), np.array([[1, 2]])
    vectors = torch.tensor([[[7.0, 0.0], [1.0, 0.0]]])
    shares = parts.shares(users, items, vectors)
    assert shares[0, 0].tolist() == pytest.approx([2 / 8, 0])
    assert shares[0, 1].tolist() == pytest.approx([0, 1])  # the row adds -3


def test_parts_are_those_of_the_trained_tables(tmp_path: Path) -> None:
    job = small_job(tmp_path, "finetune={}", "pretrain.steps=5", "model.inputs={rating: false}")
    run = write_small_data(job)
    run.job.write_text(dump_job(job))
    run_distributed(train, 1, job, "pretrain")
    parts = AttributeVectors.of(Trained(job, run, "pretrain"))
    assert parts is not None and parts.names == ("genre",)
    ids = np.arange(1, 31)
    found = parts(ids)[:, 0]
    without = np.array([i % 4 == 0 for i in range(30)])  # of tests.small_data
    assert not found[without].any() and found[~without].any(dim=1).all()
    for genre in range(3):  # items with one genre have one row
        same = found[[i for i in range(30) if i % 4 and i % 3 == genre]]
        assert torch.equal(same, same[:1].expand_as(same))
    scorer = load_scorer(job, run, "pretrain")
    given: Histories = histories([[1, 4, 2]])
    users, vectors = scorer.user_vectors(given), scorer.item_vectors(ids)
    shares = parts.shares(users, ids[None], vectors[None])[0, :, 0]
    added = (found @ users[0]).double().numpy()
    rest = (vectors @ users[0]).double().numpy() - added
    expected = np.maximum(added, 0) / (np.maximum(added, 0) + np.maximum(rest, 0) + 1e-300)
    assert shares == pytest.approx(expected, abs=1e-5)
    assert (shares > 0).any()
    scaled = job.model_copy(
        update={"model": job.model.model_copy(update={"cosine_temperature": 0.1})}
    )
    assert AttributeVectors.of(Trained(scaled, run, "pretrain")) is None


def test_they_are_in_the_files_of_recommend_and_in_the_python_api(tmp_path: Path) -> None:
    job = small_job(
        tmp_path, "finetune={}", "pretrain.steps=5", "model.inputs={rating: false}",
        "recommend.explain=2", "recommend.k=3", "scale.workers=1",
    )  # fmt: skip
    run = write_small_data(job)
    run.job.write_text(dump_job(job))
    run_distributed(train, 1, job, "pretrain")
    recommend.run(job, run)
    names = [name for name in run.recommend.children() if name.endswith(".parquet")]
    rows = [row for name in names for row in (run.recommend / name).read_table().to_pylist()]
    api = p5dist.load(run.root.path).recommend([["i3", "i9"]], k=3, explain=2).to_pylist()
    shares = [share for row in [*rows, *api] for share in row["attributes"]]
    assert {share["attribute"] for share in shares} == {"genre"}
    assert all(0 < share["share"] <= 1 for share in shares)
    without = {f"i{i + 1}" for i in range(30) if i % 4 == 0}
    assert not any(row["attributes"] for row in [*rows, *api] if row["item_id"] in without)
