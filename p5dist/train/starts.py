"""Whether the weights that a stage starts from are there, asked before workers are started."""

from __future__ import annotations

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig
from p5dist.errors import CheckpointError
from p5dist.storage import RunFolder
from p5dist.train.initial import Source


def check_start(job: RunConfig, stage: str, folder: RunFolder, *, fresh: bool = False) -> None:
    """Check that the weights that ``init_from`` names are there, if the stage will read them.

    Args:
        fresh: the stage begins anew, even if it has checkpoints.

    Raises:
        CheckpointError: as :meth:`Source.find`.
    """
    start = job.trainings()[stage].init_from
    if start is None:
        return
    if not fresh and Checkpoints(folder.training(stage) / "checkpoints").latest() is not None:
        return
    try:
        Source.find(start, job, folder)
    except CheckpointError as e:
        raise CheckpointError(
            f"{stage.replace('/', '.')}.init_from '{start}': {e.what}", where=e.where,
            value=e.value, rule=e.rule,
            fix="name a complete training stage or checkpoint of a run, or set init_from to null",
        ) from e  # fmt: skip
