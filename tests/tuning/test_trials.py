"""Trials are runs that share the data of a job, and are compared by its validations."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.errors import ConfigError
from p5dist.tuning.trials import Goal, trial_job
from tests.small_data import small_job

RMSE = "finetune.rating.validation={every: 5, metric: rmse}"


def test_the_goal_is_a_metric_of_the_last_validated_stage(tmp_path: Path) -> None:
    ranked = "pretrain.validation={every: 5}"
    assert Goal.of(small_job(tmp_path, ranked), None) == Goal("pretrain", "ndcg@10", True)
    both = small_job(tmp_path, ranked, RMSE)
    assert Goal.of(both, None) == Goal("finetune/rating", "rmse", False)
    assert Goal.of(both, "ndcg@10") == Goal("pretrain", "ndcg@10", True)
    with pytest.raises(ConfigError, match="no training stage is validated by this metric"):
        Goal.of(both, "hr@5")
    with pytest.raises(ConfigError, match="no training stage is validated"):
        Goal.of(small_job(tmp_path), None)


def test_the_best_value_follows_the_metric() -> None:
    assert Goal("pretrain", "ndcg@10", True).best([0.1, 0.3, 0.2]) == 0.3
    assert Goal("finetune/rating", "rmse", False).best([1.1, 0.9, 1.0]) == 0.9
    assert Goal("pretrain", "ndcg@10", True).best([]) is None


def test_a_trial_is_a_run_of_its_own_on_the_data_of_the_job(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    one = trial_job(job, {"model.dim": 8, "pretrain.tables.lr": 0.1})
    assert (one.model.dim, one.pretrain is not None and one.pretrain.tables.lr) == (8, 0.1)
    assert one.data_of == "small" and one.name.startswith("small-trial-")
    assert one.stages() == ["pretrain", "finetune/rating"], "a trial never evaluates"
    again = trial_job(job, {"pretrain.tables.lr": 0.1, "model.dim": 8})
    assert again.name == one.name
    assert trial_job(job, {"model.dim": 4}).name != one.name
    with pytest.raises(ConfigError):
        trial_job(job, {"model.dim": -1})


def test_a_kind_may_be_chosen_as_in_a_job_file(tmp_path: Path) -> None:
    """The settings of another kind, which the job has by default, do not come along."""
    job = small_job(tmp_path, "model.encoder={kind: transformer}")
    one = trial_job(job, {"model.encoder.kind": "hstu"})
    assert one.model.encoder.kind == "hstu"
