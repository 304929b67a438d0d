"""External ids are found among those of a run."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from p5dist.inference import lookup
from p5dist.inference.lookup import Lookup

EXTERNAL = pa.array(["b", None, "", "ü", "a long id of many words", "a"], pa.string())
ASKED = pa.array(["a", "c", "", None, "ü", "a", "a long id of many words", "b"], pa.string())


def test_positions() -> None:
    assert Lookup(EXTERNAL)(ASKED).tolist() == [5, -1, 2, -1, 3, 5, 4, 0]
    assert Lookup(EXTERNAL.slice(2))(ASKED.slice(2, 3)).tolist() == [0, -1, 1]
    assert Lookup(EXTERNAL.slice(0, 0))(ASKED).tolist() == [-1] * 8
    assert Lookup(EXTERNAL)(ASKED.slice(0, 0)).tolist() == []


def test_different_ids_with_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_length(text: pa.StringArray) -> np.ndarray:
        return np.array([len(t) for t in text.to_pylist()], dtype=np.uint64)

    monkeypatch.setattr(lookup, "stable_hash", by_length)
    assert Lookup(EXTERNAL)(ASKED).tolist() == [5, -1, 2, -1, 3, 5, 4, 0]
