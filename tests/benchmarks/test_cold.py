"""Items that training has never seen: the histories that they are removed from, and their ranks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p5dist.data import columns as c
from p5dist.ranking.targets import Rule, Targets

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cold


def test_removed_items_are_in_no_training_history_and_last_ones_are_targets(tmp_path: Path) -> None:
    histories = [["u1", "a", "b", "c"], ["u2", "d", "a"], ["u3", "c"], ["u4", "b", "d", "b"]]
    log = tmp_path / "log.txt"
    log.write_text("".join(" ".join(own) + "\n" for own in histories))
    assert cold._remove(log, tmp_path, 0.5, seed=1) == 2
    train = [line.split() for line in (tmp_path / "train.txt").read_text().splitlines()]
    left = {item for _, *own in train for item in own}
    assert len(left) == 2
    assert train == [[user, *(i for i in own if i in left)] for user, *own in histories]
    targets = [line.split() for line in (tmp_path / "test.txt").read_text().splitlines()]
    # The last item, where it is removed and something is known of the user.
    wanted = [[user, own[-1]] for user, *own in histories if own[-1] not in left and left & {*own}]
    assert targets == wanted


def test_ranks_are_among_the_candidates_with_the_lower_id_first() -> None:
    ids, items = np.array([2, 5, 9]), np.array([9, 2, 5])
    nobody = Targets.none(Rule(c.TEST, sessions=False)).nothing()
    targets = replace(nobody, owner=np.arange(3), user=np.arange(3), item=items)
    score = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 0.0], [0.5, 0.5, 0.9]])
    found = cold._metrics(score, targets, ids, seed=1)
    # Ranks 1; 1 (ties with 5, but 2 is lower); 3 (0.9 before, and 2 of the tie before 5).
    assert found["ndcg@10"]["value"] == pytest.approx((1 + 1 + 1 / np.log2(4)) / 3)
    assert found["hr@10"]["value"] == 1
