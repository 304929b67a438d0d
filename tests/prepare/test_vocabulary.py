from __future__ import annotations

import numpy as np
import pyarrow as pa

from p5dist.prepare.vocabulary import Vocabulary


def part(values: list[str], counts: list[int], seen: list[int]) -> tuple[pa.Array, ...]:
    return pa.array(values), np.array(counts), np.array(seen)


def test_ids_fall_with_the_count_and_the_parts_do_not_matter() -> None:
    parts = [
        part(["10", "9", "2"], [1, 0, 4], [1, 2, 4]),
        part(["9", "30", "7"], [1, 0, 0], [1, 1, 0]),
    ]
    for order in (parts, parts[::-1]):
        vocabulary = Vocabulary.by_count(order)  # type: ignore[arg-type]
        # 7 never occurs; 9 and 10 train once each, as numbers 9 is smaller.
        assert vocabulary.external.to_pylist() == ["2", "9", "10", "30"]
        assert vocabulary.count.tolist() == [4, 1, 1, 0]
    assert vocabulary.ids(pa.array(["10", "7", "2"])).tolist() == [3, 0, 1]
    again = Vocabulary.of_table(vocabulary.table())
    assert again.external.equals(vocabulary.external)
    assert again.table().equals(vocabulary.table())


def test_one_id_that_is_no_number_makes_all_of_them_text() -> None:
    vocabulary = Vocabulary.by_count([part(["10", "9", "b"], [1, 1, 1], [1, 1, 1])])  # type: ignore[list-item]
    assert vocabulary.external.to_pylist() == ["10", "9", "b"]


def test_nothing_at_all() -> None:
    vocabulary = Vocabulary.by_count([part(["a"], [0], [0])])  # type: ignore[list-item]
    assert vocabulary.ids(pa.array(["a"])).tolist() == [0]
    assert len(vocabulary) == len(vocabulary.table()) == 0
