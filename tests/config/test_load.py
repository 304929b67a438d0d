"""Job files and overrides: round trips, and errors that name key, rule and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.config import RunConfig, dump_job, load_job, parse_job
from p5dist.errors import ConfigError

JOBS = sorted((Path(__file__).parents[2] / "jobs").rglob("*.yaml"))
MINIMAL = "name: small\nprepare: {source: {files: log.csv}}\npretrain: {steps: 10}\n"


def _error(text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_job(text, list(overrides), where="job.yaml")
    return caught.value


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_jobs_load_and_survive_a_round_trip(path: Path) -> None:
    job = load_job(path)
    assert parse_job(dump_job(job)) == job
    assert parse_job(dump_job(job, defaults=False)) == job
    assert RunConfig.model_validate_json(job.model_dump_json()) == job


def test_a_round_trip_keeps_what_is_not_a_default() -> None:
    text = MINIMAL + (
        "seed: 7\nfeed: {lanes: 4, max_length: 9}\nevaluate: null\n"
        "finetune: {next: {task: {kind: next_item, loss: {kind: sampled_softmax}}, epochs: 0.5}}\n"
    )
    job = parse_job(text)
    again = parse_job(dump_job(job))
    assert again == parse_job(dump_job(job, defaults=False)) == job
    assert again.evaluate is None and again.finetune["next"].epochs == 0.5
    assert again.finetune["next"].task.loss.negatives == 512  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("pretrain.steps=99", ("pretrain", "steps"), 99),
        ("seed=3", ("seed",), 3),
        ("name=b", ("name",), "b"),
        ("evaluate.k=[1, 2]", ("evaluate", "k"), (1, 2)),
        ("recommend=null", ("recommend",), None),
        ("scale.address=", ("scale", "address"), None),
        ("prepare.source.files=a=b.csv", ("prepare", "source", "files"), "a=b.csv"),
        ("feed.window=last", ("feed", "window"), "last"),
    ],
)
def test_overrides_are_read_as_yaml(override: str, path: tuple[str, ...], value: object) -> None:
    found: object = parse_job(MINIMAL, [override])
    for part in path:
        found = getattr(found, part)
    assert found == value


def test_the_last_override_wins() -> None:
    assert parse_job(MINIMAL, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("override", ["steps", "=3", "pretrain.=3", ".steps=3", "a..b=3", ""])
def test_what_is_no_override(override: str) -> None:
    error = _error(MINIMAL, override)
    assert error.what == "not an override" and error.value == override
    assert "pretrain.steps=100" in (error.fix or "")


def test_an_override_below_a_plain_value() -> None:
    error = _error(MINIMAL + "seed: 1\n", "seed.value=3")
    assert error.what == "an override goes below a value that has no keys"
    assert (error.where, error.value, error.fix) == ("seed.value", "1", "set seed as a whole")


@pytest.mark.parametrize(
    ("override", "path", "hint"),
    [
        ("pretrain.step=3", "pretrain.step", "did you mean 'steps'?"),
        ("modle.dim=3", "modle", "did you mean 'model'?"),
        ("model.encoder.layer=3", "model.encoder.layer", "did you mean 'layers'?"),
        ("pretrain.objective.loss={kind: softmax, negatives: 3}",
         "pretrain.objective.loss.negatives", "remove it"),
        ("finetune.r={task: {kind: rating, userdim: 3}, steps: 1}", "finetune.r.task.userdim",
         "did you mean 'user_dim'?"),
        ("finetune.r={task: {kind: multi, tasks: {a: {kind: rating, userdim: 3}}}, steps: 1}",
         "finetune.r.task.tasks.a.userdim", "did you mean 'user_dim'?"),
        ("prepare.items={files: i.csv, id: i, attributes: {g: {kinds: multi}}}",
         "prepare.items.attributes.g.kinds", "did you mean 'kind'?"),
        ("prepare.items={files: i.csv, id: i, attributes: {g: {kind: words, separator: ','}}}",
         "prepare.items.attributes.g.separator", "remove it"),
        ("prepare.items={files: i.csv, id: i, attributes: {g: {kind: multi, bins: [1]}}}",
         "prepare.items.attributes.g.bins", "remove it"),
        ("prepare.source.columns={context: {shop: {seperator: a}}}",
         "prepare.source.columns.context.shop.seperator", "remove it"),
    ],
)  # fmt: skip
def test_unknown_keys_name_path_and_neighbour(override: str, path: str, hint: str) -> None:
    error = _error(MINIMAL, override)
    assert error.what == f"{path}: unknown key" and error.where == "job.yaml"
    assert hint in (error.fix or "") and "known here: " in (error.rule or "")


def test_wrong_values_name_path_value_and_knob() -> None:
    error = _error(MINIMAL, "model.dim=0")
    assert "model.dim" in error.what and error.value == "0"
    assert "greater than 0" in (error.rule or "") and "model.dim=…" in (error.fix or "")
    error = _error(MINIMAL, "pretrain.steps=many", "seed=x")
    assert "seed" in str(error) and "pretrain.steps" in str(error)  # all problems at once


@pytest.mark.parametrize(
    ("override", "what", "kinds"),
    [
        ("pretrain.objective.loss.negatives=3", "pretrain.objective.loss.kind: missing",
         "softmax, sampled_softmax, gbce"),
        ("finetune.r={task: {kind: ratng}, steps: 1}", "finetune.r.task.kind: unknown task",
         "next_item, rating, click, multi"),
        ("finetune.r={task: {kind: multi, tasks: {a: {kind: ratng}}}, steps: 1}",
         "finetune.r.task.tasks.a.kind: unknown task", "next_item, rating, click"),
        ("prepare.split.test=b.csv", "prepare.split.kind: missing",
         "leave_one_out, time, ratio, given"),
        ("prepare.items={files: i.csv, id: i, attributes: {g: {kind: multy}}}",
         "prepare.items.attributes.g.kind: unknown attribute kind",
         "category, multi, words, numeric, vector, text"),
        ("prepare.source.format=cvs", "prepare.source.format: unknown source format",
         "csv, tsv, jsonl, parquet, sequences, sql, kafka"),
        ("prepare.items={files: i.csv, id: i, format: cvs}",
         "prepare.items.format: unknown source format",
         "csv, tsv, jsonl, parquet, sequences, sql, kafka"),
    ],
)  # fmt: skip
def test_missing_and_unknown_kinds_list_the_known(override: str, what: str, kinds: str) -> None:
    error = _error(MINIMAL, override)
    assert error.what == what and error.rule == f"one of: {kinds}"


def test_missing_keys_are_named() -> None:
    error = _error("name: small\n")
    assert error.what == "prepare: missing" and "add prepare" in (error.fix or "")
    assert _error(MINIMAL, "prepare.source={}").what == "prepare.source.files: missing"


@pytest.mark.parametrize("text", ["", "- a\n", "just words"])
def test_a_job_is_a_mapping(text: str) -> None:
    assert "must be a mapping" in _error(text).what


def test_broken_yaml_and_missing_files(tmp_path: Path) -> None:
    assert _error("a: [1\nb: 2").what == "not YAML"
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_job(tmp_path / "none.yaml")
    assert caught.value.where == str(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_run_names_are_folder_names(name: str) -> None:
    assert "name" in _error(MINIMAL, f'name="{name}"').what


def test_an_override_that_is_not_yaml_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.dim(.|\n)*\[1"):
        parse_job("name: shop\nprepare: {source: {files: a.csv}}", ["model.dim=[1"])
    with pytest.raises(ConfigError, match=r"evaluate\.k"):
        parse_job("name: shop\nprepare: {source: {files: a.csv}}", ["evaluate.k=[]"])


def test_a_wrong_value_names_its_line_unless_an_override_gave_it() -> None:
    text = MINIMAL + "model:\n  dim: 0\n"
    assert _error(text).where == "job.yaml, line 5"
    assert _error(text, "model.dim=-1").where == "job.yaml"
    assert _error(MINIMAL + "finetune:\n  a: {steps: 1}\n").where == "job.yaml, line 5"
    assert _error(MINIMAL + "evaluate:\n  k: [1,\n      0]\n").where == "job.yaml, line 6"


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("evaluate.k=[5, 0]", "evaluate.k.1: ", "pass evaluate.k=[…]"),
        (
            "pretrain.dense.betas=[2, x]",
            "pretrain.dense.betas.1: ",
            "pass pretrain.dense.betas=[…]",
        ),
        ("model.dim=0", "model.dim: ", "pass model.dim=…"),
        ("prepare.split={kind: time, validation: 0.6, test: 0.5}", "prepare.split: ", None),
        ("prepare.split={kind: ratio, validation: 0.6, test: 0.5}", "prepare.split: ", None),
        ("prepare.split={kind: time}", "prepare.split.test: missing", "add prepare.split.test"),
        ("prepare.split={kind: ratio, test: x}", "prepare.split.test: ", "prepare.split.test=…"),
    ],
)
def test_every_named_key_exists(override: str, what: str, fix: str | None) -> None:
    error = _error(MINIMAL, override)
    assert error.what.startswith(what)
    assert (fix or "change prepare.split in the job file, or pass prepare.split=…") in str(
        error.fix
    )


def test_a_number_where_text_is_expected_goes_in_quotes() -> None:
    error = _error(MINIMAL, "prepare.source.columns.user=3")
    assert (error.rule, error.fix) == (
        "text is expected",
        "write it in quotes, as it is in the data: '3'",
    )


def test_text_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(MINIMAL.encode() + b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"not UTF-8") as caught:
        load_job(tmp_path / "job.yaml")
    assert caught.value.where == f"{tmp_path}/job.yaml, line 4"
    assert "iconv" in str(caught.value.fix)
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("small", "ü").encode())
    with pytest.raises(ConfigError, match="name"):  # read as UTF-8: the name is not allowed
        load_job(tmp_path / "job.yaml")


EVENTS = "name: a\nprepare:\n  source: {files: a.csv, columns: {event: on}}\n  events: "


def test_words_of_yaml_1_1_and_numbers_are_names_as_they_are_written() -> None:
    job = parse_job(
        EVENTS + "{'yes': 1, \"no\": 0, 'on': 2, 1: 0.5, 1.50: 3, 'null': 4, 2024-05-03: 5}"
    )
    assert job.prepare.events == {
        "yes": 1, "no": 0, "on": 2, "1": 0.5, "1.50": 3, "null": 4, "2024-05-03": 5
    }  # fmt: skip
    assert job.prepare.source.columns.event == "on"
    assert parse_job(dump_job(job)) == job
    assert parse_job(EVENTS + "{a: 1}", ["prepare.events={'no': 0}"]).prepare.events == {"no": 0}
    assert parse_job(EVENTS + "{a: 1}", ["prepare.events.no=0"]).prepare.events == {"a": 1, "no": 0}
