"""Rules between sections, the stages of a job, and the settings in a fingerprint."""

from __future__ import annotations

import pytest

from p5dist.config import RunConfig, parse_job
from p5dist.errors import ConfigError

JOB = """
name: small
prepare:
  source: {files: log.csv, columns: {rating: stars}}
  items: {files: items.csv, id: item_id, attributes: {genre: {kind: multi}}}
pretrain: {steps: 10}
finetune:
  rating: {task: {kind: rating}, steps: 5}
"""


def _job(*overrides: str) -> RunConfig:
    return parse_job(JOB, list(overrides))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["feed.lanes=2", "scale.workers=3"], "feed.lanes 2 must be at least scale.workers 3"),
        (["pretrain.batch_size=100"], "pretrain.batch_size 100 must be a multiple of"),
        (["finetune.rating.batch_size=65"], "finetune.rating.batch_size 65 must be a multiple of"),
        (["model.item_attributes=[brand]"], "does not define (it has: genre)"),
        (["model.user_attributes=[age]"], "does not define (it has: none)"),
        (["evaluate.segments_by=[brand]"], "evaluate.segments_by names 'brand'"),
        (["evaluate.diversity_by=brand"], "no attribute with values of prepare.items.attributes"),
        (["pretrain=null"], "the job has no pretrain section"),
        (["prepare.source.columns.rating=null"], "finetune.rating.task needs ratings"),
        (
            ["finetune={}", "prepare.source.columns.rating=null", "model.inputs.rating=true"],
            "model.inputs.rating needs ratings",
        ),
        (["evaluate.ranking_from=finetune/rating"], "(it has: pretrain)"),
        (["recommend.ranking_from=none"], "recommend.ranking_from 'none' is no stage"),
        (
            ["model.encoder={kind: mean}", "pretrain.objective={kind: masked}"],
            "pretrain.objective predicts hidden items from both sides, but model.encoder "
            "'mean' sees the past only",
        ),
        (["model.inputs.event=true"], "model.inputs.event reads the event of interactions"),
        (
            ["prepare.source.columns.timestamp=null", "model.encoder={kind: hstu}"],
            "model.encoder 'hstu' reads the timestamp of interactions, but prepare.source.columns."
            "timestamp names no column: set model.encoder.time_intervals to false",
        ),
        (
            ["prepare.source.columns.timestamp=null", "model.inputs.calendar=true"],
            "model.inputs.calendar reads the timestamp of interactions",
        ),
        (["model.inputs.id_dropout=0.1"], "inputs.id_dropout needs model.item_attributes"),
        (["model.inputs.user_attributes=true"], "needs model.user_attributes"),
        (
            ["model.encoder={positions: rotary}", "model.dim=6"],
            "3 channels (dim 6 / heads 2)",
        ),
        (["model.dim=7"], "dim 7 must be a multiple of encoder.heads 2"),
        (["pretrain.epochs=1"], "one of steps and epochs, or neither"),
        (["prepare.items.attributes.genre={kind: numeric}"], "genre.bins: missing"),
        (["prepare.items.attributes.genre={kind: numeric, bins: [2, 1]}"], "bins must rise"),
        (["prepare.users={files: u.csv, id: u, title: name}"], "only items have a title"),
        (
            ["prepare.items.attributes.genre={kind: text, min_count: 2}"],
            "kind 'text' has no values to count",
        ),
        (
            ["prepare.source={files: a, format: sequences, columns: {rating: r}}"],
            "columns.rating: format 'sequences' has users and items only; remove it",
        ),
        (
            ["prepare.source={files: a, format: jsonl, names: [a]}"],
            "names is for csv and tsv files, not for jsonl: remove names",
        ),
        (
            ["prepare.items={files: a, format: jsonl, names: [a], id: a}"],
            "names is for csv and tsv files, not for jsonl: remove names",
        ),
        (
            ["prepare.items={files: a, format: sequences, id: a}"],
            "prepare.items.format: format 'sequences' has nothing about items or users: use csv, "
            "tsv, jsonl, parquet or sql",
        ),
        (
            ["prepare.items.attributes={title: {kind: words}}"],
            "'title' is taken by the title itself: give the attribute another name, and column: "
            "title",
        ),
        (
            ["prepare.source.columns.context={shop: {min_count: 2}}"],
            "'shop' has min_count 2, which items and users have, not context columns",
        ),
        (
            ["prepare.items.attributes.genre={kind: text}", "model.item_attributes=[genre]"],
            "prepare.items.attributes has as kind 'text' (it has: none)",
        ),
        (
            ["pretrain.objective={kind: attributes, attributes: [brand]}"],
            "pretrain.objective.attributes names 'brand'",
        ),
        (
            ["pretrain.objective={kind: attributes, attributes: [genre], of: masked}"],
            "no objective hides items",
        ),
        (
            [
                "pretrain.objective={kind: multi, objectives: {a: {kind: masked}, "
                "b: {kind: causal}}}"
            ],
            "'a' needs an encoder that sees both sides, 'b' an encoder that sees the past only",
        ),
        (
            [
                "pretrain.objective={kind: multi, objectives: {a: {kind: causal}, "
                "b: {kind: skip_gram, loss: {kind: sampled_softmax}}}}"
            ],
            "'b' and 'a' have different losses over the catalogue",
        ),
        (
            ["finetune.rating.task={kind: multi, weights: {b: 1}, tasks: {a: {kind: next_item}}}"],
            "weights names 'b', not one of: a",
        ),
        (
            ["finetune.rating.task={kind: multi, tasks: {a: {kind: rating}}}"],
            "set tasks.a.history to time",
        ),
        (["finetune.rating.task={kind: click}"], "no setting defines a no"),
        (["finetune.rating.task={kind: click, positive: [buy]}"], "task names events, but"),
        (["finetune.rating.task={kind: next_item, events: {a: 1}}"], "task names events, but"),
        (
            ["ranking.item_to_item=0.3", "pretrain=null", "finetune.rating.init_from=null"],
            "ranking.item_to_item 0.3 shares the ranking with a model, but no stage of this job",
        ),
        (["prepare.events={view: 0}"], "events needs source.columns.event"),
        (
            ["prepare.source.columns.context={tags: {kind: multi}}"],
            "category or numeric",
        ),
        (["prepare.source.columns={}", "prepare.session_gap=1"], "session_gap needs times"),
        (
            ["prepare.source.columns={}", "prepare.clean.repeat_window=0"],
            "clean.repeat_window needs times",
        ),
        (
            ["prepare.source.columns={}", "prepare.clean.time_range=[0, 9]"],
            "clean.time_range needs times",
        ),
        (
            ["prepare.source.columns={}", "prepare.split={kind: time, test: 2024-05-01}"],
            "split.test needs times",
        ),
        (
            [
                "prepare.source={files: x, format: sequences}",
                "prepare.split={kind: time, test: 0.1}",
            ],
            "format 'sequences' has user after user",
        ),
        (
            ["prepare.source.columns={}", "prepare.clean.rating_range=[1, 5]"],
            "clean.rating_range needs source.columns.rating",
        ),
        (["recommend.where={year: 1999}"], "recommend.where names 'year', which is no attribute"),
        (["recommend.users=a", "recommend.histories={files: b}"], "exclude each other"),
        (["recommend.k=5", "recommend.candidates=4"], "candidates 4 is less than k 5"),
        (
            ["recommend.histories={files: b}", "model.inputs.rating=true"],
            "recommend.histories.columns.rating names no column",
        ),
        (
            ["recommend.histories={files: b, columns: {event: type}}"],
            "recommend.histories.columns.event: the log has no column for it",
        ),
        (
            ["recommend.histories={files: b, columns: {context: {shop: {kind: category}}}}"],
            "lists do not depend on context",
        ),
        (["prepare.clean.time_range=[9, 1]"], "the first limit must not be above the second"),
    ],
)
def test_settings_that_do_not_fit_each_other(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _job(*overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["../keep", "a/b", "", "..", ".hidden", "a b"])
def test_names_of_stages_are_names_of_folders(name: str) -> None:
    with pytest.raises(ConfigError, match="finetune"):
        parse_job(JOB + f"  '{name}': {{task: {{kind: rating}}, steps: 5}}\n")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=-1", "seed"),
        ("seed=99999999999999999999", "seed"),
        ("prepare.source.files=[]", "name at least one file"),
        ("prepare.source.files=", "prepare.source.files"),
        ("prepare.source.files=''", "name at least one file"),
        ("prepare.split={kind: given, test: []}", "name at least one file"),
        ("prepare.clean.rating_range=[1]", "prepare.clean.rating_range"),
        ("prepare.clean.rating_range=[]", "prepare.clean.rating_range"),
        ("prepare.source.quote=','", "delimiter and quote must be two characters"),
        ("prepare.source.columns={user: a, item: a}", "both in column 'a'"),
        ("prepare.items.attributes.genre={kind: category, separator: '|'}", "separator"),
        ("prepare.items.attributes.genre={kind: numeric, bins: [1, .inf]}", "must be finite"),
        ("prepare.items.attributes.genre={kind: numeric, bins: [1, .nan]}", "must be finite"),
        ("prepare.items.attributes.genre={kind: numeric, bins: 2}", "should be a list"),
    ],
)
def test_values_without_a_meaning(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        _job(override)
    assert said in str(error.value)


def test_whole_numbers_are_attribute_values() -> None:
    lists = _job("recommend.where={genre: [1999, x]}", "recommend.not_where={genre: 7}").recommend
    assert lists is not None
    assert (lists.where, lists.not_where) == ({"genre": ("1999", "x")}, {"genre": "7"})


def test_stages_in_order() -> None:
    assert _job().stages() == [
        "prepare", "pretrain", "finetune/rating", "evaluate", "recommend", "report",
    ]  # fmt: skip
    only = _job("pretrain=null", "finetune={}", "recommend=null")
    assert only.stages() == ["prepare", "evaluate", "report"]


def test_stages_that_rank_and_rate() -> None:
    job = _job("finetune.next={task: {kind: next_item}, steps: 1}")
    assert job.ranking_stages() == ["pretrain", "finetune/next"]
    assert job.predicting_tasks() == {"finetune/rating": ("finetune/rating", "")}
    assert _job("finetune={}").predicting_tasks() == {}
    several = (
        "finetune={all: {task: {kind: multi, tasks: {a: {kind: rating, history: time}, "
        "b: {kind: rating, history: time}, c: {kind: next_item}}}, steps: 1}}"
    )
    assert _job(several).predicting_tasks() == {
        "finetune/all/a": ("finetune/all", "a"),
        "finetune/all/b": ("finetune/all", "b"),
    }


STAGES = _job().stages()


@pytest.mark.parametrize(
    "override",
    [
        "scale={workers: 8, max_failures: 0, actors: 3}",
        "storage=s3://bucket/runs",
        "name=other",
        "feed.unit_rows=7",
        "feed.read_ahead=9",
        "prepare.changed_inputs=keep",
        "pretrain.checkpoint={every: 1, keep: 9}",
        "pretrain.log_every=1",
    ],
)
def test_fingerprints_ignore_how_and_where_a_job_runs(override: str) -> None:
    for stage in STAGES:
        assert _job(override).fingerprint(stage) == _job().fingerprint(stage), stage


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=2", STAGES),
        ("prepare.ties=shuffled", STAGES),
        ("feed.lanes=32", STAGES),
        ("model.dim=32", STAGES[1:]),
        ("feed.max_length=7", STAGES[1:]),
        ("pretrain.steps=11", STAGES[1:]),
        ("finetune.rating.steps=6", STAGES[2:]),
        ("evaluate.k=[3]", ["evaluate", "report"]),
        ("recommend.k=3", ["recommend", "report"]),
        ("recommend.stock=stock.csv", ["recommend", "report"]),
        ("ranking.item_to_item=0.3", ["evaluate", "recommend", "report"]),
        ("report.users=1", ["report"]),
    ],
)
def test_fingerprints_follow_what_decides_a_result(override: str, changed: list[str]) -> None:
    before, after = _job(), _job(override)
    assert [s for s in STAGES if before.fingerprint(s) != after.fingerprint(s)] == changed
