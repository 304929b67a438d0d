from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.prepare.arrays import encode, id_order, merge_counts, stable_hash, stable_order

MASK = (1 << 64) - 1
G = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def slow_hash(text: str) -> int:
    data = text.encode()
    value = mix((len(data) + G) & MASK)
    for i in range(0, len(data), 8):
        word = int.from_bytes(data[i : i + 8], "little")
        value = mix(((value ^ word) + G) & MASK)
    return value


def test_mix_is_splitmix64() -> None:
    # First outputs of SplitMix64 seeded with 0 (Vigna's reference implementation).
    state = [(G * i) & MASK for i in (1, 2, 3)]
    assert [mix(s) for s in state] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30)), st.integers(0, 3))
def test_stable_hash_is_its_definition(texts: list[str], skip: int) -> None:
    array = pa.array(["some", "other", "text", *texts], pa.string()).slice(skip)
    assert stable_hash(array).tolist() == [slow_hash(t) for t in array.to_pylist()]


def test_stable_hash_never_changes() -> None:
    # Prepared data of earlier versions must stay in the order it has.
    found = stable_hash(pa.array(["", "1", "user-000001"])).tolist()
    assert found == [0xE220A8397B1DCDAF, 0x89D6AD8E69DF4E76, 0x9B336E645DDC4540]


def test_hash_spreads_consecutive_ids() -> None:
    shard = stable_hash(pa.array([str(i) for i in range(8000)])) % np.uint64(8)
    counts = np.bincount(shard.astype(int))
    assert counts.min() > 900 and counts.max() < 1100


def test_merge_counts() -> None:
    parts = [(np.array([3, 1]), np.array([2, 5])), (np.array([1, 4]), np.array([1, 1]))]
    values, counts = merge_counts(parts)
    assert values.tolist() == [1, 3, 4] and counts.tolist() == [6, 2, 1]


def test_encode_over_chunks() -> None:
    values, codes = encode(pa.chunked_array([["a", "b"], [], ["b", "c", "a"]]))
    assert values.to_pylist() == ["a", "b", "c"] and codes.tolist() == [0, 1, 1, 2, 0]
    assert len(encode(pa.chunked_array([], pa.string()))[0]) == 0


@pytest.mark.parametrize(
    ("ids", "order"),
    [
        (["10", "9", "-2", "09"], ["-2", "09", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["10", "9", "9" * 19], ["10", "9", "9" * 19]),
        ([], []),
    ],
)
def test_id_order(ids: list[str], order: list[str]) -> None:
    array = pa.array(ids, pa.string())
    assert array.take(pa.array(id_order(array))).to_pylist() == order


@pytest.mark.parametrize("seed", range(20))
def test_stable_order_is_that_of_lexsort(seed: int) -> None:
    """Keys of one bit to 64, so that one word holds all of them, some, or not even one."""
    draw = np.random.default_rng(seed)
    n = int(draw.choice([0, 1, 2, 100, 3000]))
    keys = []
    for _ in range(draw.integers(1, 5)):
        high = 2 ** int(draw.choice([0, 1, 2, 12, 30, 45, 62]))
        key = draw.integers(-high, high, n)
        keys.append(draw.choice(key, n) if n and draw.random() < 0.5 else key)
    if n and seed % 4 == 0:
        keys[0] = np.sort(keys[0])
        keys[-1][0], keys[-1][-1] = -(2**63), 2**63 - 1
    assert stable_order(*keys).tolist() == np.lexsort(keys).tolist()
