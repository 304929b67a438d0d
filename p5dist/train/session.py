"""One training stage on one worker: model, optimizers, data and checkpoints put together."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel

from p5dist.checkpoint.checkpoints import Checkpoint, Checkpoints, Retention
from p5dist.checkpoint.saver import Saver
from p5dist.config import RunConfig, dump_job
from p5dist.config.train import Training
from p5dist.config.validation import Validating
from p5dist.data.jagged import Bools
from p5dist.data.labels import AttributeLabels
from p5dist.data.manifest import Manifest
from p5dist.data.trained import read_trained, write_trained
from p5dist.environment.provenance import versions
from p5dist.errors import CheckpointError
from p5dist.feed.collate import Collate
from p5dist.feed.mix import Mix, open_mix
from p5dist.feed.negatives import Candidates, shares_of
from p5dist.feed.order import LaneOrder, total_steps
from p5dist.feed.windows import met_in_windows
from p5dist.models.precision import set_precision
from p5dist.storage import RunFolder
from p5dist.tasks.build import Model, build_model, catalogue_loss, make_collate
from p5dist.train.average import Average
from p5dist.train.host import HostGroup
from p5dist.train.initial import REPORT as INIT_REPORT
from p5dist.train.initial import Source, initialise, trained_items
from p5dist.train.optimizers import Optimizers
from p5dist.train.private.budget import Budget, begun_epochs, budget_of
from p5dist.train.private.outcome import REPORT as PRIVACY
from p5dist.train.private.step import Private, open_private
from p5dist.train.selection import Selection
from p5dist.train.sharding import describe, init_tables, set_table_steps, shard, table_names


@dataclass
class Session:
    """Everything that a worker needs for its steps."""

    job: RunConfig
    stage: str
    training: Training
    manifest: Manifest
    mix: Mix
    total: int
    """Steps of the stage."""
    validating: Validating | None
    """Its validations."""
    model: DistributedModelParallel
    optimizers: Optimizers
    collate: Collate
    candidates: Candidates | None
    host: HostGroup
    """For exchanges of the thread that makes the batches."""
    saver: Saver
    device: torch.device
    start: int
    """Steps already taken."""
    average: Average | None
    """Of the weights."""
    selection: Selection
    private: Private | None = None
    """Of a stage with differential privacy."""
    source: str = ""
    """The checkpoint of another run that a private stage began with, by the CRC-32 of its files."""
    skipped: int = 0
    """Of these, steps that were not applied since their loss was not finite."""

    @property
    def order(self) -> LaneOrder:
        """Of this job's own data."""
        return self.mix.own.order

    @property
    def inner(self) -> Model:
        """The model below the wrappers of TorchRec and DDP."""
        module = self.model.module
        return getattr(module, "module", module)  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        """All tensors of a checkpoint by name."""
        weights = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        averages = {} if self.average is None else self.average.state()
        return weights | averages | self.optimizers.state()

    @property
    def starts_well(self) -> bool:
        """Whether the model may be of use before the first step."""
        tasks = self.training.tasks().values()
        return self.training.init_from is not None or any(task.has_base for task in tasks)

    def position(self) -> dict[str, Any]:
        """The order that the number of steps taken is a position in."""
        found = {
            "data": self.mix.fingerprint,
            "feed.lanes": self.order.lanes,
            "batch_size": self.training.batch_size,
            "seed": self.job.training_seed,
            "job": self.job.fingerprint(self.stage),
        }
        if self.private is not None:  # another key would repeat steps with other noise
            found["privacy.key"] = self.private.noise.check
        return found

    def save(self, step: int, score: float | None = None) -> None:
        """Begin a checkpoint after ``step`` steps; all workers call it.

        Args:
            score: of the validation at this step; the highest is the best.
        """
        meta = {
            "job": dump_job(self.job),
            "position": self.position(),
            "skipped": self.skipped,
            "selection": self.selection.state(),
            "workers": dist.get_world_size(),
            "plan": describe(self.model.plan),
            "versions": versions(),
        }
        if self.private is not None:
            epochs = begun_epochs(self.order, step)
            meta["privacy"] = {**self.private.budget.spent(epochs), "source": self.source}
        self.saver.save(step, self.state(), meta, score=score)


def open_session(
    job: RunConfig, stage: str, folder: RunFolder, manifest: Manifest, device: torch.device
) -> Session:
    """Build a stage on this worker (the process group exists) and restore where it left off:
    from its own latest checkpoint, else from ``init_from``, else from the seed.

    Raises:
        CheckpointError: the stage's checkpoint is of other data or another job.
    """
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    training = job.trainings()[stage]
    set_precision(training.precision)
    mix = open_mix(job, stage, folder, manifest)
    total = total_steps(training, mix.own.order)
    there = manifest.users_by_split["validation"] > 0
    validating = training.validating(job.evaluate, total, there=there)
    per_worker = max(training.batch_size // dist.get_world_size(), 1)
    built = build_model(job, stage, manifest, torch.device("meta"))
    if training.compile:
        built.backbone.encoder.compile(dynamic=True)
    model = shard(
        built,
        training.tables,
        batch_size=per_worker,
        device=device,
        scale=job.scale,
    )
    tables = table_names(model.plan)
    init_tables(
        {name: t for name, t in model.state_dict().items() if name in tables},
        seed=job.training_seed,
        std=job.model.init_scale,
    )
    checkpoints = Checkpoints(folder.training(stage) / "checkpoints")
    trained = _trained_items(job, stage, folder, mix, new=checkpoints.latest() is None)
    host = HostGroup()
    session = Session(
        job=job,
        stage=stage,
        training=training,
        manifest=manifest,
        mix=mix,
        total=total,
        validating=validating,
        model=model,
        optimizers=Optimizers(model, training, total),
        collate=make_collate(job, folder, manifest, training, trained),
        candidates=_candidates(job, stage, mix, host),
        host=host,
        saver=_saver(training, checkpoints, best=validating is not None),
        device=device,
        start=0,
        average=None if training.average is None else Average(training.average, model.state_dict()),
        selection=Selection(None if validating is None else validating.patience),
    )
    _restore(session, folder)
    budget = budget_of(job, stage, manifest, mix.own.order)
    if budget is not None:
        session.private = _private(session, budget)
        latest = checkpoints.latest()
        if latest is not None:
            _check(session, latest)  # the key too
        if dist.get_rank() == 0:
            (folder.training(stage) / PRIVACY).write_json(session.private.report())
    session.saver.prepare(session.state())
    return session


def _private(session: Session, budget: Budget) -> Private:
    """Equal noise for equal steps: what decides the updates names the run."""
    run = {
        "data": session.mix.fingerprint,
        "emptied": session.manifest.emptied,
        "stage": session.stage,
        "source": session.source,
        "job": session.job.fingerprint(session.stage),
    }
    return open_private(
        session.model, session.inner, session.optimizers, budget, session.training,
        run=json.dumps(run, sort_keys=True), stage=session.stage, device=session.device,
    )  # fmt: skip


def _candidates(job: RunConfig, stage: str, mix: Mix, host: HostGroup) -> Candidates | None:
    """None for a stage without a loss over the catalogue."""
    loss = catalogue_loss(job, stage)
    if loss is None:
        return None
    met = None
    longest = max(one.manifest.longest_history for one in mix.sets)
    if "in_batch" in shares_of(loss) and longest > job.feed.max_length:
        met = met_in_windows(
            mix, mix.readers(job, job.trainings()[stage]), rank=dist.get_rank(),
            workers=dist.get_world_size(), add=host.add,
        )  # fmt: skip
    return Candidates(
        loss,
        mix.item_counts(),
        mix.catalogue(),
        job.training_seed,
        only_seen=bool(job.model.item_attributes or job.model.item_vectors),
        met=met,
        gather=host.gather,
    )


def _trained_items(
    job: RunConfig, stage: str, folder: RunFolder, mix: Mix, *, new: bool
) -> Bools | None:
    """As :func:`.initial.trained_items`; a stage that goes on reads what it wrote."""
    if not new:
        return read_trained(folder.training(stage))
    trained = trained_items(job, stage, folder, mix)
    if dist.get_rank() == 0:
        write_trained(folder.training(stage), trained)
    return trained


def _saver(training: Training, checkpoints: Checkpoints, *, best: bool) -> Saver:
    config = training.checkpoint
    attempt = [str(time.time_ns() // 1_000_000)]
    dist.broadcast_object_list(attempt, src=0)
    return Saver(
        checkpoints,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        attempt=attempt[0],
        retention=Retention(config.keep, config.keep_every, best=best),
        asynchronous=config.asynchronous,
        patience_s=config.patience_s,
    )


def _restore(session: Session, folder: RunFolder) -> None:
    latest = session.saver.checkpoints.latest()
    if latest is not None:
        _check(session, latest)
        latest.load(session.state())
        session.start = latest.step
        set_table_steps(session.model, latest.step)
        session.skipped = latest.meta()["skipped"]
        session.selection.restore(latest.meta()["selection"])
        session.source = latest.meta().get("privacy", {}).get("source", "")
    elif session.training.init_from is not None:
        source = Source.find(session.training.init_from, session.job, folder)
        if session.training.init_from not in session.job.trainings():
            session.source = source.checkpoint.digest()
        report = initialise(
            session.state(), source, session.job, session.stage, folder.prepare, _labels(session)
        )
        if dist.get_rank() == 0:
            (folder.training(session.stage) / INIT_REPORT).write_json(asdict(report))
        if session.average is not None:
            session.average.restart()


def _labels(session: Session) -> AttributeLabels | None:
    """The item attributes that the model reads."""
    tables, sizes = session.collate.item_attributes, session.manifest.item_attributes
    if tables is None:
        return None
    return AttributeLabels(tables, tuple(sizes[name] for name in tables.names))


def _check(session: Session, checkpoint: Checkpoint) -> None:
    saved = checkpoint.meta()["position"]
    for name, now in session.position().items():
        if saved[name] != now:
            raise CheckpointError(
                f"a checkpoint has its position in another order of the data: {name} has changed",
                where=str(checkpoint.folder),
                value=saved[name],
                rule=f"this run has {name} = {now}",
                fix=f"restore the old value; or train on under another run name with init_from: "
                f"{checkpoint.folder}, which begins a new epoch; or start anew: --fresh",
            )
