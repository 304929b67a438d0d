"""Random runs from the log to the lists keep their promises (see :mod:`.random_runs`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.end_to_end.random_runs import check_run
from tests.processes import run_distributed


def check_runs(seeds: list[int]) -> None:
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            check_run(seed, Path(folder))


@given(st.lists(st.integers(0, 2**32), min_size=8, max_size=8))
@settings(
    phases=[Phase.generate], max_examples=2, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_every_target_list_and_rank_follows_from_the_log(seeds: list[int]) -> None:
    run_distributed(check_runs, 1, seeds)
