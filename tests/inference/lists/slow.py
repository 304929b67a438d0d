"""A recommend stage that takes its time, to be killed: ``python -m tests.inference.lists.slow
STORAGE [a.b=1 …]``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from p5dist.config import RunConfig
from p5dist.data.histories import Histories
from p5dist.inference import recommend
from p5dist.inference.lists import new_people
from p5dist.storage import RunFolder
from tests.fake_scorer import FakeScorer, load_fake
from tests.inference.lists.made import job_at

PORTION = 40
"""Interactions of new people in a portion."""


class SlowScorer(FakeScorer):
    """0.2 seconds for each batch."""

    def user_vectors(self, histories: Histories) -> torch.Tensor:
        time.sleep(0.2)
        return super().user_vectors(histories)


def load_slow(job: RunConfig, folder: RunFolder, stage: str) -> FakeScorer:
    return SlowScorer(load_fake(job, folder, stage).catalogue)


if __name__ == "__main__":
    new_people.ROWS = PORTION
    job = job_at(Path(sys.argv[1]), *sys.argv[2:])
    recommend.run(job, RunFolder.of_job(job), load=load_slow)
