"""Kinds by name: ours, those of other packages, and what is wrong with a name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from p5dist.config import parse_job, registry
from p5dist.config.registry import ATTRIBUTES, ENCODERS, FORMATS, OBJECTIVES, TASKS, Registry
from p5dist.errors import ConfigError
from p5dist.prepare.formats.delimited import Csv, Tsv

OWN = "tests.prepare.formats.own"
GROUP = "p5dist.formats"


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
    assert formats.names() == ["csv", "tsv", "jsonl", "parquet", "sequences", "ini"]


def test_unknown_names_list_the_known(formats: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ini=f"{OWN}:Ini")
    found = error(formats, "inni")
    assert found.what == "unknown source format" and found.value == "inni"
    assert found.rule == "one of: csv, tsv, jsonl, parquet, sequences, ini"
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
    "points",
    [
        [("csv", f"{OWN}:Ini")],
        [("ini", f"{OWN}:Ini"), ("ini", f"{OWN}:FixedWidth")],
    ],
)
def test_two_of_one_name(
    formats: Registry, monkeypatch: pytest.MonkeyPatch, points: list[tuple[str, str]]
) -> None:
    found = [EntryPoint(name, value, GROUP) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    caught = error(formats, "ini")
    assert caught.what == "two source formats have the same name"
    assert caught.where == f"entry points {GROUP}" and f"{OWN}:" in str(caught.value)


def test_a_job_file_says_where_the_wrong_name_is() -> None:
    text = "name: small\nprepare: {source: {files: log.csv, format: 'pathlib:Path'}}\n"
    with pytest.raises(ConfigError) as caught:
        parse_job(text)
    assert caught.value.what == "prepare.source.format: not a source format"
    assert caught.value.value == "pathlib:Path"
