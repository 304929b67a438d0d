"""Places that a job names, as they mean the same in every folder."""

from __future__ import annotations

import os

from p5dist.config.run import RunConfig


def with_absolute_places(job: RunConfig) -> RunConfig:
    """The job with absolute paths of its storage, of other data sets, and of initial weights, for
    processes that work in other folders."""
    mix = {
        name: mixed.model_copy(update={"data": _absolute(mixed.data)})
        for name, mixed in job.feed.mix.items()
    }
    stages = {
        stage: training.model_copy(update={"init_from": _absolute(training.init_from)})
        for stage, training in job.trainings().items()
        if training.init_from is not None and training.init_from not in job.trainings()
    }
    own = {f"finetune/{name}": section for name, section in job.finetune.items()}
    return job.model_copy(
        update={
            "storage": _absolute(job.storage),
            "feed": job.feed.model_copy(update={"mix": mix}),
            "pretrain": stages.get("pretrain", job.pretrain),
            "finetune": {
                name.removeprefix("finetune/"): stages.get(name, section)
                for name, section in own.items()
            },
        }
    )


def _absolute(url: str) -> str:
    return url if "://" in url else os.path.abspath(url)  # noqa: PTH100
