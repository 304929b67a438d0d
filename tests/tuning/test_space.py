"""Ranges of settings on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.errors import ConfigError
from p5dist.tuning.space import Range, draw, parse_space, present
from tests.small_data import small_job


def test_ranges_are_read() -> None:
    words = [
        "model.dim=choice(64,128)", "pretrain.tables.lr=loguniform(0.01,0.3)",
        "model.encoder.layers=randint(1,4)", "pretrain.tables.kind=choice(sgd,rowwise_adagrad)",
    ]  # fmt: skip
    assert parse_space(words) == {
        "model.dim": Range("choice", (64, 128)),
        "pretrain.tables.lr": Range("loguniform", (0.01, 0.3)),
        "model.encoder.layers": Range("randint", (1, 4)),
        "pretrain.tables.kind": Range("choice", ("sgd", "rowwise_adagrad")),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to search"),
        (["model.dim"], "not a range"),
        (["model.dim=64"], "not a range"),
        (["model.dim=choice()"], "not a range"),
        (["model.dim=normal(1,2)"], "not a range"),
        (["pretrain.tables.lr=uniform(2,1)"], "not a range"),
        (["pretrain.tables.lr=loguniform(0,1)"], "not a range"),
        (["model.dim=randint(1.5,3)"], "not a range"),
        (["model.dim=choice(1)", "model.dim=choice(2)"], "twice"),
        (["prepare.max_length=choice(10,20)"], "cannot be searched"),
        (["seed=randint(1,9)"], "cannot be searched"),
        (["train_seed=randint(1,9)"], "cannot be searched"),
        (["pretrain.validation.users=randint(1,9)"], "cannot be searched"),
    ],
)
def test_wrong_ranges_are_errors(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space(words)


def test_the_drawn_values_lie_in_the_range() -> None:
    for kind, low, high in (("uniform", 1.0, 2.0), ("loguniform", 0.1, 10.0), ("randint", 1, 4),
                            ("lograndint", 1, 9)):  # fmt: skip
        drawn = [Range(kind, (low, high)).domain().sample() for _ in range(50)]
        assert all(low <= value < high for value in drawn)
        assert len(set(drawn)) > 1


def test_the_values_of_the_job(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    space = parse_space(["model.dim=choice(8,16)", "pretrain.tables.lr=uniform(0.1,0.2)"])
    assert present(job, space) == {"model.dim": 16, "pretrain.tables.lr": 0.05}
    with pytest.raises(ConfigError, match="no such setting"):
        present(job, parse_space(["model.width=choice(8,16)"]))


def test_settings_are_drawn_once_each_and_the_same_way_again() -> None:
    first = {"a": 1, "b": "x"}
    space = {"a": Range("choice", (1, 2)), "b": Range("choice", ("x", "y"))}
    found = draw(space, 20, 7, first)
    assert found[0] == first
    assert sorted((one["a"], one["b"]) for one in found) == [
        (1, "x"), (1, "y"), (2, "x"), (2, "y"),
    ]  # fmt: skip
    numbers = {"a": Range("loguniform", (0.1, 10.0))}
    assert draw(numbers, 5, 7, {"a": 1.0}) == draw(numbers, 5, 7, {"a": 1.0})
    assert draw(numbers, 5, 7, {"a": 1.0}) != draw(numbers, 5, 8, {"a": 1.0})


def test_whether_a_value_lies_in_a_range() -> None:
    assert Range("choice", (1, "x")).has("x") and not Range("choice", (1, "x")).has(2)
    assert Range("uniform", (1.0, 2.0)).has(1) and not Range("uniform", (1.0, 2.0)).has(None)
    assert not Range("randint", (1, 4)).has(4)
