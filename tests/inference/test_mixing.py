"""The share of counts is chosen on the validation split: as by whole evaluations, once, and for the
Python API too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import p5dist
from p5dist.config import RunConfig, dump_job
from p5dist.data.manifest import Manifest
from p5dist.inference import recommend
from p5dist.inference.evaluate import stage
from p5dist.inference.mixing import CHOSEN, SHARES, decided, decided_here
from p5dist.inference.scorer import load_scorer
from p5dist.storage import RunFolder
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

AUTO = (
    "ranking.item_to_item=auto", "ranking.returns=auto", "evaluate.bootstrap=0", "finetune={}",
    "model.inputs={rating: false, event: true}", "prepare.source.columns.event=event",
)  # fmt: skip


def trained_in(folder: Path, *overrides: str) -> tuple[RunConfig, RunFolder]:
    job = small_job(folder, *AUTO, *overrides)
    run = write_small_data(job, users=120)
    run.job.write_text(dump_job(job))
    run_distributed(train, 1, job, "pretrain")
    return job, run


@pytest.fixture(scope="module", params=[True, False], ids=["masked", "with repeats"])
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder]:
    folder = tmp_path_factory.mktemp("mixing")
    return trained_in(folder, f"evaluate.mask_seen={str(request.param).lower()}")


def on_validation(job: RunConfig, run: RunFolder, share: float, own: bool) -> float:
    """NDCG@10 by the evaluate stage."""
    config = job.evaluate
    assert config is not None
    ranking = job.ranking.model_copy(update={"item_to_item": share, "returns": own})
    evaluate = config.model_copy(update={"split": "validation"})
    asked = job.model_copy(update={"ranking": ranking, "evaluate": evaluate})
    return float(stage.run(asked, run)["metrics"]["ndcg@10"]["value"])


def test_the_best_on_validation_is_chosen(made: tuple[RunConfig, RunFolder]) -> None:
    job, run = made
    assert job.evaluate is not None
    file = run.training("pretrain") / CHOSEN
    file.remove()
    result = stage.run(job, run)
    found = file.read_json()
    options = {(o["item_to_item"], o["returns"]): o["ndcg@10"] for o in found["options"]}
    own = [False] if job.evaluate.mask_seen else [False, True]
    assert set(options) == {(share, returns) for share in SHARES for returns in own}
    for share, returns in ((0.0, False), (0.3, False), (0.9, own[-1])):
        assert options[share, returns] == pytest.approx(on_validation(job, run, share, returns))
    best = found["item_to_item"], found["returns"]
    assert options[best] == max(options.values())
    assert best != (0.0, False), "the model is bad, which proves that something is chosen"
    protocol = result["protocol"]
    assert (protocol["ranking_item_to_item"], protocol["ranking_returns"]) == best
    assert protocol["ranking_chosen"]["why"].startswith("the largest ndcg@10 on")
    assert {"model_alone"} <= set(result["baselines"])
    assert ("returns" in result["baselines"]) == (not job.evaluate.mask_seen)


def test_it_is_chosen_once_and_everywhere_the_same(
    made: tuple[RunConfig, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run = made
    result = stage.run(job, run)
    before = (run.training("pretrain") / CHOSEN).read_bytes()
    manifest = Manifest.load(run.prepare)
    monkeypatch.setattr("p5dist.inference.mixing._choose", None)  # would raise if called
    again, _ = decided(job, run, manifest, "pretrain", load_scorer)
    assert again.ranking.item_to_item == result["protocol"]["ranking_item_to_item"]
    lists = recommend.run(job, run)
    assert lists["ranking_item_to_item"] == again.ranking.item_to_item
    assert lists["ranking_returns"] == again.ranking.returns
    assert (run.training("pretrain") / CHOSEN).read_bytes() == before
    scorer = load_scorer(job, run, "pretrain")
    here = decided_here(job, run, manifest, "pretrain", scorer)
    assert here.ranking == again.ranking
    monkeypatch.undo()
    (run.training("pretrain") / CHOSEN).remove()
    assert decided_here(job, run, manifest, "pretrain", scorer).ranking == again.ranking


def test_lists_are_those_of_the_python_api(made: tuple[RunConfig, RunFolder]) -> None:
    job, run = made
    assert job.recommend is not None
    decided_job, _ = decided(job, run, Manifest.load(run.prepare), "pretrain", load_scorer)
    share, own = decided_job.ranking.item_to_item, decided_job.ranking.returns
    settled = job.model_copy(
        update={"ranking": job.ranking.model_copy(update={"item_to_item": share, "returns": own})}
    )
    histories, events = [["i3", "i9", "i3"], ["i4"]], [["view", "buy", "view"], ["buy"]]
    given = {"events": events, "k": 5, "mask_seen": False}
    times = {"times": [[1, 2, 3], [4]]}
    found = p5dist.load(run.root.path).recommend(histories, **given, **times)
    run.job.write_text(dump_job(settled))
    expected = p5dist.load(run.root.path).recommend(histories, **given, **times)
    run.job.write_text(dump_job(job))
    assert found["item_id"].to_pylist() == expected["item_id"].to_pylist()
    assert np.allclose(found["score"].to_numpy(), expected["score"].to_numpy())


def test_without_validation_the_model_ranks_alone(tmp_path: Path) -> None:
    job, run = trained_in(tmp_path)
    manifest = Manifest.load(run.prepare)
    none = manifest.model_copy(update={"rows_by_split": {"train": 9, "validation": 0, "test": 5}})
    found, about = decided(job, run, none, "pretrain", load_scorer)
    assert (found.ranking.item_to_item, found.ranking.returns) == (0, False)
    assert about == {"why": "no interaction is in the validation split"}
