"""Kinds by name: kinds of p5dist, kinds of other packages, and errors of invalid names."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from p5dist.config import parse_job, registry
from p5dist.config.registry import ATTRIBUTES, ENCODERS, FORMATS, OBJECTIVES, TASKS, Registry
from p5dist.errors import ConfigError
from p5dist.models.encoders.encoder import Encoder
from p5dist.prepare.formats.delimited import Csv, Tsv
from p5dist.tasks.task import Metric, Task

OWN = "tests.prepare.formats.own"
GROUP = "p5dist.formats"
JOB = """
name: small
prepare: {source: {files: log.csv}}
pretrain: {steps: 1}
finetune: {new: {task: {kind: next_item}, steps: 1}}
"""


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The formats, beside packages that a test installs with ``install``."""
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    return Registry(FORMATS.noun, GROUP, FORMATS.base, FORMATS.ours)


def install(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = [EntryPoint(name, value, GROUP) for name, value in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == GROUP else [])


def error(formats: Registry, name: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        formats.find(name)
    return caught.value


@pytest.mark.parametrize("found", [FORMATS, ATTRIBUTES], ids=lambda r: r.noun)
def test_all_that_are_ours_are_there(found: Registry) -> None:
    for name in found.ours:
        assert found.find(name).__name__ == found.ours[name].partition(":")[2]


def test_groups_are_told_apart() -> None:
    groups = [r.group for r in (ENCODERS, OBJECTIVES, TASKS, ATTRIBUTES, FORMATS)]
    assert len(set(groups)) == len(groups)


def test_names_paths_and_packages(formats: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ini=f"{OWN}:Ini", csv="p5dist.prepare.formats.delimited:Csv")
    assert formats.find("csv") is Csv
    assert formats.find("p5dist.prepare.formats.delimited:Tsv") is Tsv
    assert formats.find("ini") is formats.find(f"{OWN}:Ini")
    assert formats.names() == ["csv", "tsv", "jsonl", "parquet", "sequences", "sql", "kafka", "ini"]


def test_unknown_names_list_the_known(formats: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ini=f"{OWN}:Ini")
    found = error(formats, "inni")
    assert found.what == "unknown source format" and found.value == "inni"
    assert found.rule == "one of: csv, tsv, jsonl, parquet, sequences, sql, kafka, ini"
    assert "package.module:Class" in (found.fix or "")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere.at.all:Format", "ModuleNotFoundError"),
        (f"{OWN}:Missing", "AttributeError"),
        (f"{OWN}:", "AttributeError"),
        ("tests.config.broken:Format", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_imported(
    formats: Registry, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    found = error(formats, path)
    assert found.what == "a source format cannot be imported"
    assert path in str(found.value) and said in str(found.value)
    install(monkeypatch, theirs=path)
    formats = Registry(FORMATS.noun, GROUP, FORMATS.base, FORMATS.ours)
    found = error(formats, "theirs")
    assert found.where == f"entry point {GROUP}: theirs" and said in str(found.value)


@pytest.mark.parametrize("path", ["pathlib:Path", "os:getcwd", f"{OWN}:Row"])
def test_what_is_no_format(formats: Registry, path: str) -> None:
    found = error(formats, path)
    assert found.what == "not a source format" and found.value == path
    assert "subclass of p5dist.prepare.formats.format.SourceFormat" in (found.rule or "")


def test_what_lacks_methods(formats: Registry) -> None:
    found = error(formats, f"{OWN}:Unfinished")
    assert found.what == "a source format that is not complete"
    assert found.rule == "the class defines read" and found.value == f"{OWN}:Unfinished"


@pytest.mark.parametrize(
    ("points", "name"),
    [
        ([("csv", f"{OWN}:Ini")], "csv"),
        ([("ini", f"{OWN}:Ini"), ("ini", f"{OWN}:FixedWidth")], "ini"),
    ],
)
def test_two_of_one_name(
    formats: Registry, monkeypatch: pytest.MonkeyPatch, points: list[tuple[str, str]], name: str
) -> None:
    """Only the name that stands for two classes cannot be used."""
    other = ("fixed", f"{OWN}:FixedWidth")
    found = [EntryPoint(n, value, GROUP) for n, value in [*points, other]]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    caught = error(formats, name)
    assert caught.what == "two source formats have the same name"
    assert caught.where == f"entry points {GROUP}" and f"{OWN}:" in str(caught.value)
    assert formats.find("fixed").__name__ == "FixedWidth"
    assert formats.find("tsv").__name__ == "Tsv"
    assert formats.find(f"{OWN}:Ini").__name__ == "Ini"
    assert "unknown" in error(formats, "unheard_of").what
    assert [n for n in formats.names() if n in (name, "fixed")] == sorted([name, "fixed"])


class Headless(Task):
    """Cannot be built."""


class Blind(Encoder):
    """Cannot be built."""


WRONG = {
    "nowhere.at.all:Kind": "{noun} cannot be imported",
    "tests.config.broken:Format": "{noun} cannot be imported",
    "tests.config.test_registry:Measured": "{noun} cannot be imported",
    "pathlib:Path": "not {article} {noun}",
    "p5dist.config.sections:TaskSection": "not {article} {noun}",
    "tests.config.test_registry:WRONG": "not {article} {noun}",
    "unheard_of": "unknown {noun}",
}
KEYS = [
    (TASKS, "finetune.new.task"),
    (ENCODERS, "model.encoder"),
    (OBJECTIVES, "pretrain.objective"),
]


@pytest.mark.parametrize("path", WRONG)
@pytest.mark.parametrize(("kinds", "key"), KEYS, ids=lambda x: getattr(x, "noun", ""))
def test_wrong_tasks_and_encoders_of_a_job_file(kinds: Registry, key: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job(JOB, [f"{key}={{kind: '{path}'}}"])
    article = "an" if kinds.noun[0] in "aeiou" else "a"
    assert caught.value.what.startswith(f"{key}.kind: ")
    assert WRONG[path].format(noun=kinds.noun, article=article) in caught.value.what
    assert path in str(caught.value.value)
    assert caught.value.rule and caught.value.fix


@pytest.mark.parametrize("kinds", [TASKS, OBJECTIVES, ENCODERS], ids=lambda r: r.noun)
def test_tasks_and_encoders_that_lack_a_method_or_have_a_name_that_is_taken(
    kinds: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = "Blind" if kinds is ENCODERS else "Headless"
    found = error(kinds, f"tests.config.test_registry:{mine}")
    assert f"{kinds.noun} that is not complete" in found.what
    assert found.rule == "the class defines build"
    taken, group = kinds.names()[0], kinds.group
    points = [EntryPoint(taken, "tests.config.test_registry:Measured", group)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    fresh = Registry(kinds.noun, group, kinds.base, kinds.ours)
    with pytest.raises(ConfigError) as caught:
        fresh.find(taken)
    assert caught.value.what == f"two {kinds.noun}s have the same name"
    assert caught.value.where == f"entry points {group}" and taken in str(caught.value.value)


def test_metrics_need_an_evaluation() -> None:
    with pytest.raises(TypeError, match="Measured names metrics, but defines no evaluation"):

        class Measured(Task):
            metrics = {"error": Metric(label="error", higher_is_better=False)}


def test_a_job_file_says_where_the_wrong_name_is() -> None:
    text = "name: small\nprepare: {source: {files: log.csv, format: 'pathlib:Path'}}\n"
    with pytest.raises(ConfigError) as caught:
        parse_job(text)
    assert caught.value.what == "prepare.source.format: not a source format"
    assert caught.value.value == "pathlib:Path"
