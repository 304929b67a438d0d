"""The whole stage on random dirty files of every format, against plain Python and pandas.

::

    python -m tests.prepare.test_dirty_logs --minutes 60 --first 1

tries seed after seed, and names those that differ.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from p5dist.errors import EmptyLogError
from tests.prepare.dirty_logs import dirty
from tests.prepare.reference import expected, written
from tests.prepare.reference_files import read
from tests.prepare.runs import prepared
from tests.seeds import try_seeds


@given(
    seed=st.integers(0, 2**32), size=st.integers(1, 40), range_bytes=st.sampled_from([90, 10**6])
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example(seed=11749, size=114, range_bytes=90)  # an item that only a bot has is no number
def test_counts_ids_order_and_splits(seed: int, size: int, range_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), seed, size, range_bytes)


def compare(folder: Path, seed: int, size: int, range_bytes: int) -> None:
    made = dirty(seed, folder, size)
    source = made.job.prepare.source
    parts = [[read(file, source) for file in files] for files in (made.log, made.test)]
    log, test = ([row for rows, _ in part for row in rows] for part in parts)
    malformed = sum(n for part in parts for _, n in part)
    found = expected(made.job, log, test)
    rejected = dict(found.rejected) | ({"malformed": malformed} if malformed else {})
    try:
        manifest, prepare = prepared(made.job, range_bytes=range_bytes)
    except EmptyLogError:
        assert not sum(found.items.values())
        return
    assert manifest.rows_in == len(log) + len(test) + malformed
    assert manifest.rows_rejected == rejected
    assert written(prepare) == found.histories
    vocabulary = pq.read_table(prepare / "vocabulary/item.parquet").to_pylist()
    assert [(v["external_id"], v["count"]) for v in vocabulary] == list(found.items.items())
    assert manifest.users == len(found.histories)
    if made.job.prepare.clean.keep_rejected and found.rejected:
        dropped = pq.read_table(prepare / "rejected")["reason"].value_counts().to_pylist()
        assert {d["values"]: d["counts"] for d in dropped} == dict(found.rejected)


if __name__ == "__main__":
    try_seeds(lambda seed, folder: compare(folder, seed, 5 + seed % 120, 90 if seed % 2 else 10**6))
