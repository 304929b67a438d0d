"""Settings that cannot have an effect in a job: no errors, since the job makes sense without them,
but worth a line when the job is checked."""

from __future__ import annotations

from collections.abc import Iterator

from p5dist.config.losses import SampledSoftmax
from p5dist.config.run import RunConfig, key_of
from p5dist.config.sections import TaskSection
from p5dist.config.train import Finetune, Training


def notes(job: RunConfig) -> list[str]:
    """One line for each setting that has no effect, beginning with its key path."""
    found = [*_columns(job), *_attributes(job), *_model(job), *_feed(job), *_recommend(job)]
    for stage, training in job.trainings().items():
        key = key_of(stage)
        found += [*_stage(job, stage, key), *_rates(training, key), *_parts(training, key)]
    for key, task in job.tasks():
        found += _loss(task, key)
    return found


def _columns(job: RunConfig) -> Iterator[str]:
    context = job.prepare.source.columns.context
    if context and _all_ours(job):
        yield (f"prepare.source.columns.context: no model of this job reads {', '.join(context)}")


def _attributes(job: RunConfig) -> Iterator[str]:
    """Attributes that are prepared for nothing."""
    if not _all_ours(job):
        return
    evaluated = [] if job.evaluate is None else job.evaluate.named_attributes()
    read = {
        "items": {
            *job.model.item_attributes,
            *(name for task in _tasks(job) for name in task.item_attributes),
            *(name for _, name in evaluated),
        },
        "users": set(job.model.user_attributes),
    }
    for side, names in read.items():
        table = getattr(job.prepare, side)
        for name, attribute in ({} if table is None else table.attributes).items():
            key = f"prepare.{side}.attributes.{name}"
            if attribute.is_vector:
                if name not in getattr(job.model, f"{side[:-1]}_vectors"):
                    yield f"{key}: not named in model.{side[:-1]}_vectors"
            elif not attribute.for_models:
                yield f"{key}: no model of this job reads attributes of kind {attribute.kind}"
            elif name not in names:
                yield f"{key}: named neither in model.{side[:-1]}_attributes nor by an objective"


def _model(job: RunConfig) -> Iterator[str]:
    model, tasks = job.model, _tasks(job)
    if not tasks:
        return
    reads = model.inputs.user_attributes or any(
        task.reads_user_attributes or not _is_ours(task) for task in tasks
    )
    for name in ("user_attributes", "user_vectors"):
        if getattr(model, name) and not reads:
            yield (
                f"model.{name}: neither model.inputs.user_attributes nor a task with a user "
                "table reads them"
            )
    if not any(task.reads_states for task in tasks):
        for name in ("encoder", "inputs"):
            if name in model.model_fields_set:
                yield f"model.{name}: no objective or task of this job reads the encoder"


def _feed(job: RunConfig) -> Iterator[str]:
    feed, longest = job.feed, job.prepare.max_length
    if feed.mix and job.pretrain is None:
        yield "feed.mix: pre-training mixes data sets, but the job has no pretrain section"
    if "weight" in feed.model_fields_set and not feed.mix:
        yield "feed.weight: there is no other data set in feed.mix"
    if "window" in feed.model_fields_set and longest is not None and longest <= feed.max_length:
        yield (
            f"feed.window: no history is longer than feed.max_length {feed.max_length}, since "
            f"prepare.max_length is {longest}"
        )


def _recommend(job: RunConfig) -> Iterator[str]:
    lists = job.recommend
    if lists is not None and lists.candidates is not None and not lists.diversity:
        yield "recommend.candidates: only recommend.diversity chooses among candidates"


def _stage(job: RunConfig, stage: str, key: str) -> Iterator[str]:
    training = job.trainings()[stage]
    used = any(other.init_from == stage for other in job.trainings().values())
    predicts = any(path_stage == stage for path_stage, _ in job.predicting_tasks().values())
    ours = all(map(_is_ours, training.tasks().values()))
    if ours and not (used or predicts or training.ranks) and len(job.trainings()) > 1:
        yield f"{key}: no stage starts from it, and it neither ranks items nor predicts"
    if training.schedule.kind == "constant" and (
        "final_fraction" in training.schedule.model_fields_set
    ):
        yield f"{key}.schedule.final_fraction: the rate of kind constant does not fall"


def _rates(training: Training, key: str) -> Iterator[str]:
    """Factors on learning rates of parts that are not trained."""
    tasks = training.tasks().values()
    own = training.learned.own_parameters or training.learned.loss_weights == "learned"
    states = any(task.reads_states for task in tasks)
    frozen = isinstance(training, Finetune) and training.train == "head"
    tables = isinstance(training, Finetune) and (training.frozen_tables or frozen)
    why = {
        "encoder": "the encoder is not trained" if frozen else "the encoder is not read",
        "head": "the objective or task has no parameters of its own",
        "tables": "no table is trained",
    }
    idle = {
        "encoder": frozen or not states,
        "head": not own,
        "tables": tables and not any(task.own_tables or not _is_ours(task) for task in tasks),
    }
    for part in ("tables", "encoder", "head"):
        if idle[part] and getattr(training.lr_scale, part) != 1:
            yield f"{key}.lr_scale.{part}: {why[part]}"


def _parts(training: Training, key: str) -> Iterator[str]:
    if not isinstance(training, Finetune):
        return
    given = training.model_fields_set
    if "adapters" in given and training.train != "adapters":
        yield f"{key}.adapters: train is {training.train}, not adapters"
    if training.frozen_tables and training.train == "head":
        yield f"{key}.frozen_tables: train: head freezes the tables anyway"
    states = any(task.reads_states for task in training.tasks().values())
    if training.train == "adapters" and not states:
        yield f"{key}.train: the task does not read the encoder, so its adapters learn nothing"


def _loss(task: TaskSection, key: str) -> Iterator[str]:
    loss = task.catalogue_loss
    if isinstance(loss, SampledSoftmax) and "alpha" in loss.model_fields_set:
        named = loss.distribution
        if "popularity" not in ([named] if isinstance(named, str) else named):
            yield f"{key}.loss.alpha: the negatives are not drawn by popularity"


def _tasks(job: RunConfig) -> list[TaskSection]:
    return [task for _, task in job.tasks()]


def _all_ours(job: RunConfig) -> bool:
    """Whether all tasks and the encoder are kinds of p5dist; other kinds may read anything."""
    return all(map(_is_ours, (job.model.encoder, *_tasks(job))))


def _is_ours(section: object) -> bool:
    return type(section).__module__.startswith("p5dist.")
