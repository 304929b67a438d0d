"""Views of histories, and the contrastive loss by a loop over pairs, on any number of workers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError
from p5dist.models.backbone import Encoded
from p5dist.tasks.build import make_collate
from p5dist.tasks.contrastive.module import ContrastiveModule
from p5dist.tasks.contrastive.views import RandomViews
from tests.data.test_histories import histories
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

ITEMS = [list(range(10 * n, 10 * n + n)) for n in range(1, 9)]
"""Histories of one to eight items, all different."""


def views(kind: str, **given: Any) -> RandomViews:
    settings = {"crop": 0.5, "drop": 0.5, "reorder": 0.5, "seed": 4} | given
    return RandomViews((kind,), **settings)


def listed(found: Histories) -> list[list[int]]:
    return [
        found.item[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)
    ]


def test_a_crop_is_a_run_of_neighbours() -> None:
    starts = set()
    for step in range(40):
        for view in views("crop")(histories(ITEMS), step):
            for own, left in zip(ITEMS, listed(view), strict=True):
                assert len(left) == max(len(own) // 2, 1)
                at = own.index(left[0])
                assert left == own[at : at + len(left)]
                starts.add((len(own), at))
    assert {at for n, at in starts if n == 8} == {0, 1, 2, 3, 4}


def test_dropped_interactions_keep_the_order_and_one_is_left() -> None:
    kept = 0
    for step in range(40):
        for view in views("drop", drop=0.75)(histories(ITEMS), step):
            for own, left in zip(ITEMS, listed(view), strict=True):
                assert left and left == [item for item in own if item in left]
            kept += len(listed(view)[-1])
    assert kept / 80 / 8 == pytest.approx(0.25, abs=0.06)


def test_a_reordered_run_has_the_same_items_and_the_times_stay() -> None:
    changed = 0
    given = histories(ITEMS)
    for step in range(40):
        for view in views("reorder")(given, step):
            assert np.array_equal(view.timestamp, given.timestamp)
            for own, left in zip(ITEMS, listed(view), strict=True):
                assert sorted(left) == own
                other = [i for i, (a, b) in enumerate(zip(own, left, strict=True)) if a != b]
                assert not other or other[-1] - other[0] < len(own) // 2
                changed += bool(other)
    assert changed > 100


def test_views_depend_on_step_row_and_number_only() -> None:
    makes = RandomViews(("crop", "drop", "reorder"), 0.6, 0.3, 0.6, 4)
    first, second = makes(histories(ITEMS), 7)
    assert listed(first) != listed(second)
    assert listed(first) != listed(makes(histories(ITEMS), 8)[0])
    part = histories(ITEMS).take(np.array([6, 2]))
    assert listed(makes(part, 7)[0]) == [listed(first)[6], listed(first)[2]]
    same = RandomViews(("dropout",), 0.6, 0.3, 0.6, 4)(histories(ITEMS), 7)
    assert listed(same[0]) == listed(same[1]) == ITEMS
    assert listed(makes(Histories.empty(2), 1)[0]) == [[], []]


class FakeBatch:
    """What the module reads of a batch."""

    def __init__(self, last: list[int]) -> None:
        self.histories = len(last)
        self.fields = {"": {"last": torch.tensor(last)}}


def loss_by_pairs(views: np.ndarray, last: list[int], same_item: str, temperature: float) -> float:
    """The docstring's formula: ``views`` [2, B, dim]."""
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    all_ = [(v, b) for v in range(2) for b in range(len(last))]
    total = 0.0
    for v, b in all_:
        others = [o for o in all_ if o != (v, b)]
        if same_item == "ignored":
            others = [(w, c) for w, c in others if c == b or last[c] != last[b]]
        score = {o: math.exp(unit[v, b] @ unit[o] / temperature) for o in others}
        alike = [(w, c) for w, c in others if c == b]
        if same_item == "positive":
            alike = [(w, c) for w, c in others if last[c] == last[b]]
        total -= sum(math.log(score[o] / sum(score.values())) for o in alike) / len(alike)
    return total


@pytest.mark.parametrize("same_item", ["negative", "ignored", "positive"])
def test_the_loss_is_that_of_a_loop_over_pairs(same_item: str) -> None:
    last = [3, 5, 3, 8, 5, 3]
    made = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    module = ContrastiveModule("", temperature=0.3, same_item=same_item, lanes=4, batch_size=16)
    encoded = Encoded(torch.zeros(0, 4), torch.zeros(0, 4), tuple(made))
    batch: Any = FakeBatch(last)
    loss = module.losses(encoded, batch)
    assert float(loss) == pytest.approx(
        loss_by_pairs(made.detach().numpy(), last, same_item, 0.3), rel=1e-5
    )
    assert module.counts(batch) == [12.0]
    loss.sum().backward()
    assert made.grad is not None and torch.isfinite(made.grad).all() and made.grad.any()


OBJECTIVES = {
    "alone": "pretrain.objective={kind: contrastive}",
    "positive": "pretrain.objective={kind: contrastive, views: [dropout], same_item: positive}",
    "causal": "pretrain.objective={kind: multi, objectives: {next: {kind: causal}, alike: "
    "{kind: contrastive, views: [crop, drop, reorder, dropout]}}, weights: {alike: 0.1}}",
    "masked": "pretrain.objective={kind: multi, objectives: {hidden: {kind: masked}, alike: "
    "{kind: contrastive}}}",
}


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_the_curve_does_not_depend_on_the_number_of_workers(kind: str, tmp_path: Path) -> None:
    curves = []
    for workers in (1, 2, 3) if kind == "causal" else (1, 2):
        job = small_job(
            tmp_path / str(workers), OBJECTIVES[kind], "finetune={}",
            "model.inputs={user_id: true, rating: true}", "ranking={}",
        )  # fmt: skip
        write_small_data(job)
        curves.append([loss for _, loss in run_distributed(train, workers, job, "pretrain")[0]])
    for other in curves[1:]:
        assert other == pytest.approx(curves[0], rel=1e-5)
    assert curves[0][-1] < curves[0][0]


def test_one_kind_of_views_in_a_batch(tmp_path: Path) -> None:
    job = small_job(
        tmp_path, "finetune={}",
        "pretrain.objective={kind: multi, objectives: {a: {kind: contrastive}, "
        "b: {kind: contrastive, crop: 0.5}}}",
    )  # fmt: skip
    folder = write_small_data(job)
    with pytest.raises(ConfigError, match="different views"):
        make_collate(job, folder, Manifest.load(folder.prepare), job.trainings()["pretrain"])
