"""A private training stage on the page."""

from __future__ import annotations

from pathlib import Path

from p5dist.report.read import TrainingRun
from p5dist.report.tables import _trained
from tests.small_data import small_job


def test_the_row_of_a_private_stage_says_what_it_has_spent() -> None:
    section = small_job(Path(), "finetune.rating.privacy={noise: 2, key: K}").trainings()[
        "finetune/rating"
    ]
    log = [{"step": 3, "epoch": 0, "loss": 2.0, "samples_per_second": 10.0}]
    spent = {"epsilon": 7.96, "delta": 1e-5, "noise": 2.0, "clip": 0.5, "epochs": 3}
    private = TrainingRun("finetune/rating", section, log, {"privacy": spent}, [])
    assert "ε = 7.96 at δ = 1e-05 (noise 2, clip 0.5, 3 epochs)" in _trained(private)
    assert "ε" not in _trained(TrainingRun("finetune/rating", section, log, {}, []))
