"""Errors have problem, place, value, rule and fix, and reach the user complete."""

from __future__ import annotations

import pickle

import pytest

from p5dist import errors
from p5dist.errors import P5Error

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)
         and issubclass(kind, P5Error)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind: type[P5Error]) -> None:
    error = kind("bad", where="a.yaml", value=[1, 2], rule="must be 3", fix="write 3")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error)
    assert (again.where, again.value, again.rule, again.fix) == (
        "a.yaml", "[1, 2]", "must be 3", "write 3",
    )  # fmt: skip


def test_message_has_a_line_for_each_part_that_is_known() -> None:
    error = P5Error("bad", where="a.yaml", value="x", fix="write 3")
    assert str(error).splitlines() == ["bad", "  where: a.yaml", "  value: x", "  fix:   write 3"]
    assert str(P5Error("bad")) == "bad"


def test_long_values_are_cut() -> None:
    assert len(P5Error("bad", value="x" * 10_000).value or "") == 200


def test_every_error_stands_in_the_drawn_tree() -> None:
    assert all(f" {kind.__name__} " in (errors.__doc__ or "") for kind in KINDS if kind != P5Error)
