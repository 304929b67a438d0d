"""Trainings without anything to learn are errors before workers are started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p5dist import pipeline
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest, Targets
from p5dist.errors import ConfigError, DataError, P5Error
from p5dist.storage import RunFolder
from p5dist.tasks.needs import check_training
from tests.prepare.runs import make_job, prepared
from tests.small_data import small_job, write_small_data

COLUMNS = {"user": "u", "item": "i", "timestamp": "t", "rating": "r", "event": "e"}
ROWS = """\
a,x,1,5,view
a,y,2,,view
a,z,3,4,buy
a,x,4,3,buy
b,x,1,2,buy
b,y,2,1,view
c,z,1,3,buy
"""


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        # a: x y | z | x; b: x y; c: z. Targets: y of a (no rating), y of b.
        ({"kind": "leave_one_out"}, Targets(total=2, rated=1, by_event={"view": 2})),
        # a: x y z | x; b: x | y; c: z. Half of 3 and of 1 is rounded down.
        (
            {"kind": "ratio", "test": 0.25},
            Targets(total=3, rated=2, by_event={"buy": 1, "view": 2}),
        ),
    ],
)
def test_prepare_counts_what_can_be_predicted(
    tmp_path: Path, split: dict[str, Any], expected: Targets
) -> None:
    (tmp_path / "log.csv").write_text("u,i,t,r,e\n" + ROWS)
    source = {"files": str(tmp_path / "log.csv"), "columns": COLUMNS}
    job = make_job(tmp_path, source, split=split, vocabulary={"of": "all"})
    assert prepared(job)[0].targets == expected


def job_of(tmp_path: Path, key: str, settings: str) -> tuple[RunConfig, str]:
    """A job that trains ``settings`` only, and its stage."""
    event = "prepare.source.columns.event=e"
    if key == "objective":
        more = (f"pretrain.objective={settings}", "finetune={}")
        return small_job(tmp_path, event, *more), "pretrain"
    more = (f"finetune={{a: {{task: {settings}, steps: 1, batch_size: 12}}}}",)
    return small_job(tmp_path, event, *more), "finetune/a"


def with_manifest(job: RunConfig, **facts: Any) -> RunFolder:
    """Prepared data whose manifest states ``facts``."""
    folder = write_small_data(job)
    Manifest.read(folder.prepare).model_copy(update=facts).save(folder.prepare)
    return folder


ALL = [
    ("objective", "{kind: causal}"),
    ("objective", "{kind: masked}"),
    ("objective", "{kind: skip_gram}"),
    ("objective", "{kind: attributes, attributes: [genre]}"),
    ("objective", "{kind: multi, objectives: {a: {kind: causal}, b: {kind: skip_gram}}}"),
    ("task", "{kind: next_item}"),
    ("task", "{kind: rating}"),
    ("task", "{kind: click, negatives: 2}"),
    ("task", "{kind: multi, tasks: {a: {kind: next_item}, b: {kind: click, negatives: 1}}}"),
]


@pytest.mark.parametrize(("key", "settings"), ALL)
def test_histories_of_one_interaction(tmp_path: Path, key: str, settings: str) -> None:
    job, stage = job_of(tmp_path, key, settings)
    none = Targets(total=0, rated=0, by_event={})
    with pytest.raises(DataError, match="nothing to predict: every history has at most one") as e:
        check_training(job, stage, with_manifest(job, targets=none))
    assert str(e.value.where).startswith(stage.replace("/", ".") + f".{key}")
    some = Targets(total=1, rated=1, by_event={"view": 1})
    check_training(job, stage, with_manifest(job, targets=some))
    cut = job.model_copy(update={"feed": job.feed.model_copy(update={"max_length": 1})})
    with pytest.raises(ConfigError, match="histories are cut to one interaction"):
        check_training(cut, stage, with_manifest(job, targets=some))


TARGETS = Targets(total=5, rated=3, by_event={"view": 5})


@pytest.mark.parametrize(
    ("settings", "facts", "kind", "message"),
    [
        ("{kind: rating}", {"targets": Targets(total=5, rated=0, by_event={})},
         DataError, "no training interaction after another one has a rating"),
        ("{kind: click, positive: [bye]}", {}, ConfigError,
         r"(?s)no such event.*finetune\.a\.task\.positive.*view, buy.*did you mean 'buy'"),
        ("{kind: click, positive: [buy]}", {}, DataError, "no example is a yes"),
        ("{kind: click, positive: [view]}", {}, DataError, "every example is a yes"),
        ("{kind: click, positive: [view], negatives: 1}", {}, None, ""),
        ("{kind: click, positive: [view, buy]}", {}, DataError, "every example is a yes"),
        ("{kind: click, threshold: 6}", {}, DataError, "no example is a yes"),
        ("{kind: click, threshold: 1}", {}, DataError, "every example is a yes"),
        ("{kind: click, threshold: 1, negatives: 1}", {}, None, ""),
        ("{kind: click, threshold: 5}", {}, None, ""),
        ("{kind: click, threshold: 5}", {"targets": Targets(total=5, rated=0, by_event={})},
         DataError, "no example is a yes"),
        ("{kind: click, positive: [view]}",
         {"targets": Targets(total=5, rated=3, by_event={"view": 4, "buy": 1})}, None, ""),
        ("{kind: next_item, events: {viev: 1}}", {}, ConfigError, "did you mean 'view'"),
        ("{kind: next_item, events: {buy: 1}}", {}, DataError, "no target has one of the chosen"),
        ("{kind: next_item, events: {view: 0, buy: 1}}", {}, DataError, "no target has one of the"),
        ("{kind: next_item, events: {view: 1, buy: 1}}", {}, None, ""),
        ("{kind: multi, tasks: {a: {kind: next_item}, b: {kind: click, positive: [buy]}}}", {},
         DataError, r"finetune\.a\.task\.tasks\.b\.positive"),
    ],
)  # fmt: skip
def test_what_each_task_needs(
    tmp_path: Path, settings: str, facts: dict[str, Any], kind: type[P5Error] | None, message: str
) -> None:
    job, stage = job_of(tmp_path, "task", settings)
    folder = with_manifest(job, **{"targets": TARGETS, **facts})
    if kind is None:
        check_training(job, stage, folder)
        return
    with pytest.raises(kind, match=message):
        check_training(job, stage, folder)


def test_attributes_without_values(tmp_path: Path) -> None:
    job, stage = job_of(tmp_path, "objective", "{kind: attributes, attributes: [genre], of: item}")
    with pytest.raises(DataError, match="no item has a value"):
        check_training(job, stage, with_manifest(job, item_attributes={"genre": 0}))
    none = Targets(total=0, rated=0, by_event={})
    check_training(job, stage, with_manifest(job, targets=none))  # items have values of their own


def test_a_mix_has_what_one_of_its_data_sets_has(tmp_path: Path) -> None:
    none = Targets(total=0, rated=0, by_event={})
    other = with_manifest(small_job(tmp_path, "name=other"), targets=TARGETS)
    job = small_job(tmp_path, f"feed.mix={{other: {{data: {other.root}}}}}")
    check_training(job, "pretrain", with_manifest(job, targets=none))
    with_manifest(small_job(tmp_path, "name=other"), targets=none)
    with pytest.raises(DataError, match="nothing to predict"):
        check_training(job, "pretrain", RunFolder.of(job.storage, job.name))


def test_a_validation_needs_a_validation_split(tmp_path: Path) -> None:
    job = small_job(tmp_path, "pretrain.validation.every=5")
    folder = with_manifest(job, rows_by_split={"train": 9, "validation": 0, "test": 0})
    with pytest.raises(DataError, match=r"(?s)nothing to validate on.*pretrain\.validation"):
        check_training(job, "pretrain", folder)


def test_all_trainings_are_looked_at_before_the_first_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = "{kind: click, positive: [bye]}"
    job = small_job(tmp_path, "prepare.source.columns.event=e",
                    f"finetune.last={{task: {task}, steps: 1, batch_size: 12}}")  # fmt: skip
    folder = with_manifest(job, targets=TARGETS)
    ran: list[str] = []
    monkeypatch.setattr(pipeline, "_run_stage", lambda *a: ran.append(a[2]))
    with pytest.raises(ConfigError, match=r"finetune\.last\.task\.positive"):
        pipeline.run(job, [])
    assert ran == []
    pipeline.run(job, ["pretrain"])  # alone it can be trained
    (folder.training("finetune/last") / "result.json").write_json({})
    pipeline.run(job, [])  # a complete training is not judged again
    assert ran == ["pretrain", "pretrain", "finetune/rating", "evaluate", "recommend", "report"]


def test_weights_that_are_not_there_are_an_error_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(tmp_path, f"pretrain.init_from={tmp_path}/nothing/pretrain")
    monkeypatch.setattr(pipeline, "_run_stage", lambda *_: pytest.fail("a stage ran"))
    with pytest.raises(
        P5Error, match=r"(?s)pretrain\.init_from '.*nothing/pretrain'.*set init_from"
    ):
        pipeline.run(job, [])
