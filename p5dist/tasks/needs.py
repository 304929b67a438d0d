"""Whether the prepared data has what a training stage learns from, asked without PyTorch."""

from __future__ import annotations

from p5dist.config import RunConfig
from p5dist.data.events import check_events
from p5dist.data.manifest import Manifest
from p5dist.errors import DataError
from p5dist.feed.mix import open_mix
from p5dist.storage import RunFolder
from p5dist.tasks.task import Context, Task


def check_training(job: RunConfig, stage: str, folder: RunFolder) -> None:
    """Check that every objective or task of a stage has something to learn, and a validation
    something to validate on.

    Raises:
        DataError: there is nothing to predict.
        ConfigError: the data does not fit the settings.
        ShardError: there is no prepared data.
    """
    manifest = Manifest.read(folder.prepare)
    sets = open_mix(job, stage, folder, manifest).sets
    for key, name, section in job.tasks_of(stage):
        assert isinstance(section, Task)
        problem: DataError | None = None
        for one in sets:
            try:
                section.check_data(Context(job, one.manifest, one.run.prepare, name), key)
                break
            except DataError as e:  # another data set of the mix may have what this one lacks
                problem = problem or e
        else:
            assert problem is not None
            raise problem
    validation = job.trainings()[stage].validation
    if validation is not None and validation.events is not None:
        check_events(manifest, validation.events, f"{stage.replace('/', '.')}.validation.events")
    wanted = validation is not None and validation.every is not None
    if wanted and not manifest.rows_by_split["validation"]:
        key = stage.replace("/", ".")
        raise DataError(
            "nothing to validate on: no interaction is in the validation split",
            where=f"{key}.validation", value=manifest.split,
            rule="validation during training predicts interactions of the validation split",
            fix=f"give prepare.split a validation part, or set {key}.validation to null",
        )  # fmt: skip


def prepare_tasks(job: RunConfig, stage: str, folder: RunFolder) -> None:
    """Write what the tasks of a stage read beside the prepared data (:meth:`.task.Task.prepare`).

    Raises:
        DataError: the data does not have it.
    """
    manifest = Manifest.read(folder.prepare)
    for _, name, section in job.tasks_of(stage):
        assert isinstance(section, Task)
        section.prepare(Context(job, manifest, folder.prepare, name))
