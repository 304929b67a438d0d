"""The trainings with golden losses: one for every kind of objective, task, encoder, input and loss
over the catalogue, on small random data; and the first steps of the jobs under jobs/."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p5dist.config import RunConfig, load_job
from tests.small_data import small_job, write_small_data

STEPS = 24
GENRES = "kind: attributes, attributes: [genre]"

OBJECTIVES = {
    "masked": "{kind: masked, probability: 0.3}",
    "masked, sampled": "{kind: masked, loss: {kind: sampled_softmax, negatives: 12}}",
    "skip-gram": "{kind: skip_gram, subsample: 0.01}",
    "attributes": f"{{{GENRES}}}",
    "attributes of items": f"{{{GENRES}, of: item}}",
    "causal and attributes": "{kind: multi, weights: {genres: 0.2}, objectives: "
    f"{{next: {{kind: causal}}, genres: {{{GENRES}}}}}}}",
    "causal and contrastive": "{kind: multi, weights: {alike: 0.1}, objectives: "
    "{next: {kind: causal}, alike: {kind: contrastive, same_item: positive}}}",
    "masked, attributes, skip-gram": "{kind: multi, weights: learned, objectives: "
    f"{{cloze: {{kind: masked}}, genres: {{{GENRES}, of: masked}}, near: {{kind: skip_gram}}}}}}",
}
TASKS = {
    "next item, weighted": "{kind: next_item, events: {buy: 3, view: 1}}",
    "next item, one event": "{kind: next_item, events: {buy: 1}}",
    "next item, by masks": "{kind: next_item, by: masked}",
    "rating, dot": "{kind: rating, base: mean, score: dot}",
    "rating, mlp": "{kind: rating, base: mean, score: mlp, user_table: false}",
    "click, dlrm": "{kind: click, positive: [buy]}",
    "click, dlrm of drawn items": "{kind: click, negatives: 3, state: false}",
    "click, dcn": "{kind: click, threshold: 3, interaction: {kind: dcn}}",
    "click, low-rank dcn": "{kind: click, positive: [buy], negatives: 2, user_table: false, "
    "interaction: {kind: dcn, layers: 2, rank: 4}}",
    "three tasks": "{kind: multi, weights: learned, tasks: {next: {kind: next_item}, stars: "
    "{kind: rating, base: mean, history: time}, buys: {kind: click, positive: [buy]}}}",
}
MODELS = {
    "rotary": ["model.encoder.positions=rotary", "model.encoder.layers=2"],
    "from the end, intervals": [
        "model.encoder={positions: learned_from_end, time_intervals: true}",
        "model.inputs={time_gap: true, calendar: true, event: true}",
    ],
    "hstu, user": ["model.encoder={kind: hstu}", "model.inputs={user_id: true, rating: true}"],
    "hstu, masked": [
        "model.encoder={kind: hstu, time_intervals: false}",
        "pretrain.objective={kind: masked, probability: 0.3}",
    ],
    "mean, cosine": [
        "model.encoder={kind: mean, last: 4, dropout: 0.1}",
        "model.cosine_temperature=0.1",
    ],
    "items dropped": ["model.inputs={item_dropout: 0.2, id_dropout: 0.2}"],
    "smoothed": ["pretrain.objective.loss={kind: softmax, label_smoothing: 0.1}"],
    "in-batch": [
        "pretrain.objective.loss={kind: sampled_softmax, negatives: 12, distribution: in_batch}"
    ],
    "mixed": [
        "pretrain.objective.loss={kind: sampled_softmax, negatives: 12, "
        "distribution: {in_batch: 1, uniform: 1, popularity: 2}}"
    ],
    "gbce": ["pretrain.objective.loss={kind: gbce, negatives: 9}"],
}


@dataclass(frozen=True)
class Case:
    """A training stage of a prepared job."""

    job: RunConfig
    stage: str


def small_cases(folder: Path, *more: str) -> dict[str, Case]:
    """By name, on small random data that is written below ``folder``.

    Args:
        more: settings of all cases, with STAGE for the section of the stage.
    """
    cases = {}
    for name, objective in OBJECTIVES.items():
        settings = [f"pretrain.objective={objective}", "model.encoder.dropout=0"]
        cases[name] = _small(folder / name, "pretrain", [*settings, *more])
    for name, task in TASKS.items():
        settings = [f"finetune.rating.task={task}", "model.encoder.dropout=0"]
        cases[name] = _small(folder / name, "finetune/rating", [*settings, *more])
    for name, settings in MODELS.items():
        cases[name] = _small(folder / name, "pretrain", [*settings, *more])
    return cases


def _small(folder: Path, stage: str, settings: list[str]) -> Case:
    section = stage.replace("/", ".")
    job = small_job(
        folder, *(setting.replace("STAGE", section) for setting in settings),
        "prepare.source.columns.event=event", "finetune.rating.init_from=null",
        f"{section}.steps={STEPS}", f"{section}.tables.lr=0.2", f"{section}.dense.lr=1.0e-2",
        f"{section}.schedule.warmup_steps=4", f"{section}.batch_size=48",
    )  # fmt: skip
    write_small_data(job)
    return Case(job, stage)


JOBS = {
    "jobs/ml-100k.yaml pretrain": {},
    "jobs/ml-100k-rating.yaml finetune/rating": {},
    "jobs/ml-100k-like.yaml finetune/like": {},
    "jobs/ml-1m.yaml pretrain": {"prepare.source.files": "ml-1m/ml-1m.txt"},
    "jobs/beauty.yaml pretrain": {
        "prepare.source.files": "beauty/sequences.txt",
        "prepare.items.files": "beauty/attributes.jsonl",
    },
    "jobs/sports.yaml pretrain": {
        "prepare.source.files": "sports/sequences.txt",
        "prepare.items.files": "sports/attributes.jsonl",
    },
}
"""Job file and stage → files of real data that it reads, beside those that p5dist fetches."""


def job_cases(root: Path, folder: Path, data: Path) -> Iterator[tuple[str, Case]]:
    """The jobs under jobs/ whose data can be had, by name; not prepared yet.

    Args:
        root: of the project.
        folder: where the runs go.
        data: folder with the real data.
    """
    for name, files in JOBS.items():
        file, stage = name.split()
        sources = [data / path.replace("attributes.jsonl", "item_attributes.json")
                   for path in files.values()]  # fmt: skip
        if not all(source.exists() for source in sources):
            continue
        section = stage.replace("/", ".")
        overrides = [f"storage={folder}", f"{section}.steps=20", f"{section}.log_every=1"]
        overrides += [f"{section}.init_from=null", f"{section}.validation=null"]
        overrides += [f"{section}.epochs=null", f"{section}.average=null"]
        for key, path in files.items():
            overrides.append(f"{key}={_written(data / path, folder)}")
        yield name, Case(load_job(root / file, overrides), stage)


def _written(place: Path, folder: Path) -> Path:
    """The file, made from {item: [attribute, …]} where it is not there."""
    if place.exists():
        return place
    found = json.loads(place.with_name("item_attributes.json").read_text())
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", dir=folder, delete=False) as file:
        for item, attributes in found.items():
            values = ", ".join(f'"{a}"' for a in attributes)
            file.write(f'{{"item_id": "{item}", "attribute": [{values}]}}\n')
        return Path(file.name)
