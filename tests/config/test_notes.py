"""Settings without effect are named when a job is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from p5dist.cli.main import app
from p5dist.config import load_job, parse_job
from p5dist.config.notes import notes
from p5dist.tasks.task import Context, Task

JOBS = Path(__file__).parents[2] / "jobs"
JOB = """
name: notes
prepare:
  source: {files: log.csv, columns: {timestamp: time, event: event, rating: rating}}
  items:
    files: items.csv
    id: item
    attributes: {genre: {kind: category}}
  users: {files: users.csv, id: user, attributes: {age: {kind: category}}}
model: {item_attributes: [genre], user_attributes: [age]}
pretrain: {steps: 1, batch_size: 64}
finetune:
  stars: {task: {kind: rating}, steps: 1, batch_size: 64}
"""
HEAD = "finetune.stars.train=head"
NEXT = "finetune.stars.task={kind: next_item}"


def told(*overrides: str) -> list[str]:
    """Key paths of the notes."""
    return [note.partition(": ")[0] for note in notes(parse_job(JOB, list(overrides)))]


def test_a_job_whose_settings_all_have_an_effect() -> None:
    assert told() == []


@pytest.mark.parametrize("file", sorted(JOBS.rglob("*.yaml")), ids=str)
def test_the_jobs_of_the_project_have_no_idle_settings(file: Path) -> None:
    assert notes(load_job(file)) == []


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["prepare.source.columns.context={device: {kind: category}}"],
         ["prepare.source.columns.context"]),
        (["prepare.items.attributes.story={kind: text}"], ["prepare.items.attributes.story"]),
        (["prepare.items.attributes.brand={kind: category}"], ["prepare.items.attributes.brand"]),
        (["prepare.items.attributes.brand={kind: category}", "pretrain.objective={kind: multi, "
          "objectives: {n: {kind: causal}, a: {kind: attributes, attributes: [brand]}}}"], []),
        (["finetune.stars.task.user_table=false"], ["model.user_attributes"]),
        (["finetune.stars.task.user_table=false", "model.inputs.user_attributes=true"], []),
        ([NEXT], ["model.user_attributes"]),
        (["finetune={}", "model.user_attributes=[]"], ["prepare.users.attributes.age"]),
        (["finetune={}", "model.inputs.user_attributes=true", "model.encoder.layers=3",
          "pretrain.objective={kind: skip_gram}"], ["model.encoder", "model.inputs"]),
        (["pretrain.objective={kind: skip_gram}", "model.encoder.layers=3"], []),
        (["pretrain.lr_scale={encoder: 2, head: 3}"], ["pretrain.lr_scale.head"]),
        (["pretrain.lr_scale.head=2", "pretrain.objective={kind: multi, weights: learned, "
          "objectives: {n: {kind: causal}}}"], []),
        (["pretrain.lr_scale.encoder=2", "pretrain.objective={kind: skip_gram}"],
         ["pretrain.lr_scale.encoder"]),
        ([HEAD, "finetune.stars.lr_scale={encoder: 2, tables: 2, head: 2}"],
         ["finetune.stars.lr_scale.encoder"]),
        ([HEAD, "finetune.stars.lr_scale.tables=2", "finetune.stars.task.user_table=false",
          "model.inputs.user_attributes=true"], ["finetune.stars.lr_scale.tables"]),
        ([HEAD, "finetune.stars.frozen_tables=true"], ["finetune.stars.frozen_tables"]),
        (["finetune.stars.adapters.rank=4"], ["finetune.stars.adapters"]),
        (["finetune.stars={task: {kind: click, threshold: 3, state: false}, train: adapters, "
          "steps: 1, batch_size: 64}"], ["finetune.stars.train"]),
        (["pretrain.objective.loss={kind: sampled_softmax, distribution: in_batch, alpha: 0.5}"],
         ["pretrain.objective.loss.alpha"]),
        (["pretrain.objective.loss={kind: sampled_softmax, alpha: 0.5}"], []),
        (["pretrain.schedule={kind: constant, final_fraction: 0.5}"],
         ["pretrain.schedule.final_fraction"]),
        (["pretrain.objective={kind: attributes, attributes: [genre]}",
          "finetune.stars.init_from=null"], ["pretrain"]),
        (["feed.weight=2"], ["feed.weight"]),
        (["recommend.candidates=50"], ["recommend.candidates"]),
        (["recommend={candidates: 50, diversity: 0.1}"], []),
        (["feed.window=last", "prepare.max_length=50"], ["feed.window"]),
        (["feed.window=last", "prepare.max_length=500"], []),
        (["pretrain=null", "finetune.stars.init_from=null", "feed.mix={a: {data: runs/a}}"],
         ["feed.mix"]),
    ],
    ids=str,
)  # fmt: skip
def test_settings_without_effect(overrides: list[str], keys: list[str]) -> None:
    assert told(*overrides) == keys


class Own(Task):
    """A task of another package: nobody knows what it reads."""

    def build(self, context: Context, device: Any) -> Any:
        raise NotImplementedError


def test_kinds_of_others_may_read_anything() -> None:
    context = "prepare.source.columns.context={device: {kind: category}}"
    own = "finetune.stars.task={kind: 'tests.config.test_notes:Own'}"
    assert told(context, own) == []
    assert told(context, NEXT) == ["prepare.source.columns.context", "model.user_attributes"]


@pytest.mark.parametrize("words", [["run", "--dry-run"], ["config"]])
def test_the_commands_say_it_once(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    command, *options = words
    done = CliRunner().invoke(
        app, [command, str(path), f"storage={tmp_path}", "feed.weight=2", *options]
    )
    assert done.exit_code == 0
    assert done.stderr.count("no effect: feed.weight: there is no other data set") == 1
    assert "no effect" not in done.stdout


def test_an_attribute_that_only_the_evaluation_names() -> None:
    override = "model.item_attributes=[]"
    assert told(override) == ["prepare.items.attributes.genre"]
    assert told(override, "evaluate.segments_by=[genre]") == []
    assert told(override, "evaluate.diversity_by=genre") == []
