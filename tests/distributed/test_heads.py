"""Every objective and task: the loss falls, every gradient is finite, two workers have the curve
of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.config import RunConfig
from tests.distributed.heads import curves
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

GENRES = "kind: attributes, attributes: [genre]"
OBJECTIVES = {
    "masked": "{kind: masked, probability: 0.3}",
    "masked, sampled": "{kind: masked, loss: {kind: sampled_softmax, negatives: 12}}",
    "skip-gram": "{kind: skip_gram, subsample: 0.01}",
    "attributes": f"{{{GENRES}}}",
    "attributes of items": f"{{{GENRES}, of: item}}",
    "causal and attributes": "{kind: multi, weights: {genres: 0.2}, objectives: "
    f"{{next: {{kind: causal}}, genres: {{{GENRES}}}}}}}",
    "masked, attributes, skip-gram": "{kind: multi, weights: learned, objectives: "
    f"{{cloze: {{kind: masked}}, genres: {{{GENRES}, of: masked}}, near: {{kind: skip_gram}}}}}}",
}
TASKS = {
    "next item, weighted": "{kind: next_item, events: {buy: 3, view: 1}}",
    "next item, one event": "{kind: next_item, events: {buy: 1}}",
    "next item, by masks": "{kind: next_item, by: masked}",
    "rating, dot": "{kind: rating, score: dot}",
    "rating, mlp": "{kind: rating, score: mlp, user_table: false}",
    "click, dlrm": "{kind: click, positive: [buy]}",
    "click, dlrm of drawn items": "{kind: click, negatives: 3, state: false}",
    "click, dcn": "{kind: click, threshold: 3, interaction: {kind: dcn}}",
    "click, low-rank dcn": "{kind: click, positive: [buy], negatives: 2, user_table: false, "
    "interaction: {kind: dcn, layers: 2, rank: 4}}",
    "three tasks": "{kind: multi, weights: learned, tasks: {next: {kind: next_item}, stars: "
    "{kind: rating, history: time}, buys: {kind: click, positive: [buy]}}}",
}
Curves = dict[str, tuple[list[float], list[str]]]


def jobs_in(folder: Path) -> dict[str, tuple[RunConfig, str]]:
    jobs = {}
    heads = [(name, "pretrain", f"pretrain.objective={o}") for name, o in OBJECTIVES.items()]
    heads += [(name, "finetune/rating", f"finetune.rating.task={t}") for name, t in TASKS.items()]
    for name, stage, head in heads:
        section = stage.replace("/", ".")
        job = small_job(
            folder / name, head, "prepare.source.columns.event=event",
            "finetune.rating.init_from=null", f"{section}.steps=24", f"{section}.tables.lr=0.2",
            f"{section}.dense.lr=1.0e-2", f"{section}.schedule.warmup_steps=4",
            f"{section}.batch_size=48", "model.encoder.dropout=0",
        )  # fmt: skip
        write_small_data(job)
        jobs[name] = job, stage
    return jobs


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Curves, Curves]:
    """What one worker and what two workers find."""
    one, two = (
        run_distributed(curves, n, jobs_in(tmp_path_factory.mktemp(str(n)))) for n in (1, 2)
    )
    assert two[0] == two[1], "the workers do not agree"
    return one[0], two[0]


@pytest.mark.parametrize("name", [*OBJECTIVES, *TASKS])
def test_a_head_learns_the_same_on_one_and_two_workers(
    name: str, one_and_two: tuple[Curves, Curves]
) -> None:
    (one, without), (two, _) = (found[name] for found in one_and_two)
    assert not without, "parameters without a finite gradient"
    assert len(one) == 24
    assert sum(one[-6:]) < 0.98 * sum(one[:6]), "nothing was learned"
    assert two[:8] == pytest.approx(one[:8], rel=1e-6)
    assert two == pytest.approx(one, rel=1e-5)  # rounding adds up
