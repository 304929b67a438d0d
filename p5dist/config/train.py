"""The ``pretrain`` and ``finetune`` sections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from p5dist.config.base import Section
from p5dist.config.output import Evaluate
from p5dist.config.privacy import Privacy
from p5dist.config.registry import OBJECTIVES, TASKS, Chosen
from p5dist.config.sections import TaskSection
from p5dist.config.validation import RANKING_METRIC, VALIDATIONS, Validating, Validation


class TableOptimizer(Section):
    """Optimizer of the embedding tables, fused into the backward pass (FBGEMM)."""

    kind: Literal["rowwise_adagrad", "sgd", "adam", "partial_rowwise_adam", "lamb"] = (
        "rowwise_adagrad"
    )
    """adam, partial_rowwise_adam (one second moment a row) and lamb on CUDA only."""
    lr: PositiveFloat = 0.05
    """Learning rate at the top of the schedule."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adam, partial_rowwise_adam and lamb."""
    exchange: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers that travel between workers: rows, and their gradients. With bf16 and fp16 half the
    bytes travel, and losses depend on the number of workers by this rounding."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty on the rows that a step looks up; with rowwise_adagrad only. On CPU FBGEMM applies
    it to the ids of items, but not to tables of users and attributes: a model that has such tables
    needs CUDA."""


class DenseOptimizer(Section):
    """AdamW for all parameters except embedding tables."""

    lr: PositiveFloat = 1e-3
    """Learning rate at the top of the schedule."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the two moments."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the dense gradient; left empty: not clipped."""


class Schedule(Section):
    """Factor on both learning rates: a linear warm-up, then constant or falling."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    """constant: stays at 1 after the warm-up; linear, cosine: falls to final_fraction."""
    warmup_steps: NonNegativeInt = 100
    """Steps in which the factor rises from 0 to 1."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Factor reached at the last step (linear and cosine)."""


class Checkpoints(Section):
    """When checkpoints are written, and which are kept."""

    every: PositiveInt = 200
    """Steps between checkpoints; the last step always has one."""
    keep: PositiveInt = 2
    """Number of newest checkpoints that are kept."""
    keep_every: PositiveInt | None = None
    """Checkpoints of steps that are multiples of this number are always kept."""
    asynchronous: bool = True
    """Training continues while a checkpoint is written; needs memory for a copy of tables and
    optimizer state."""
    patience_s: NonNegativeFloat = 90.0
    """Seconds that a failing write (a store that refuses, a full disk) is retried while training
    continues, before the stage gives up."""


class NonFinite(Section):
    """The reaction to a loss that is not a finite number."""

    policy: Literal["stop", "skip"] = "stop"
    """skip: the step is not applied and its rows are written to skipped.jsonl; each step then waits
    for its loss, which costs time on GPUs."""
    budget: NonNegativeInt = 10
    """Steps that may be skipped in a stage."""


class LearningRates(Section):
    """Factors on the learning rates of the parts of a model."""

    tables: PositiveFloat = 1.0
    """The embedding tables."""
    encoder: PositiveFloat = 1.0
    """The backbone without its tables."""
    head: PositiveFloat = 1.0
    """The task's own parameters."""


class Adapters(Section):
    """Low-rank matrices added to the linear layers of the encoder (LoRA, Hu et al. 2022)."""

    rank: PositiveInt = 8
    """Rank of the added matrices."""
    alpha: PositiveFloat = 16.0
    """The adapters' output is scaled by alpha / rank."""


class Averaging(Section):
    """An exponential moving average (EMA) of all weights; validation and later stages use the
    average instead of the weights."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Decay per step."""
    every: PositiveInt = 10
    """Steps between two updates of the average; an update touches all rows of all tables."""


class Profile(Section):
    """A trace of some steps on the first worker, taken after every start of the workers."""

    steps: PositiveInt = 5
    """Number of steps that are traced."""
    start: NonNegativeInt = 20
    """Steps before the trace, which also serve as warm-up."""


class Advance(Section):
    """How ``p5dist advance`` trains on the interactions of a new period: every training stage goes
    on from its checkpoint in the period before, with its own settings except for these."""

    epochs: PositiveFloat = 1.0
    """Passes over the histories that have new interactions."""
    lr: PositiveFloat = 0.1
    """Factor on the learning rates of each stage: about what its own schedule ended with. Larger
    steps forget what was learned from all earlier interactions."""
    schedule: Schedule = Schedule(kind="constant", warmup_steps=0)
    """In place of the schedule of each stage."""


class Training(Section):
    """The settings that pre-training and fine-tuning share."""

    steps: PositiveInt | None = None
    """Length of the training in steps."""
    epochs: PositiveFloat | None = None
    """At most one of steps and epochs. Left out: 20 epochs, but at least 1,500 steps, and at most
    100,000 steps or one epoch."""
    batch_size: PositiveInt = 256
    """Histories per step over all workers together; a multiple of feed.lanes."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of products in the dense part. tf32: on CUDA factors are rounded to 10 bits of mantissa;
    bf16: factors are bfloat16 (autocast), attention too. Sums, norms, losses, tables, optimizer
    states and ranking are always float32."""
    compile: bool = False
    """Compile the encoder (torch.compile), which takes a minute at every start of a worker and a
    C++ compiler on the machine; losses agree up to rounding."""
    tables: TableOptimizer = TableOptimizer()
    dense: DenseOptimizer = DenseOptimizer()
    lr_scale: LearningRates = LearningRates()
    """Factors on tables.lr and dense.lr by part of the model."""
    schedule: Schedule = Schedule()
    init_from: str | None = None
    """Initial weights: a stage of this job; or the folder or URL of a training stage, or of a
    checkpoint, of another run (rows are matched by external ids); left empty: random weights from
    the seed."""
    init_optimizers: bool = False
    """Start from the states of the optimizers too, which a stage that goes on needs: without them
    its first steps are as large as those of a new model."""
    checkpoint: Checkpoints = Checkpoints()
    log_every: PositiveInt = 10
    """Steps between two lines of metrics.jsonl and two values of the progress display."""
    validation: Validation | None = Validation()
    """null: no validation, and later stages use the newest checkpoint."""
    average: Averaging | None = None
    non_finite: NonFinite = NonFinite()
    ledger: bool = False
    """Write the row numbers that every worker trained on, for p5dist audit."""
    profile: Profile | None = None
    """Trace of some steps; left empty: no trace."""

    @model_validator(mode="after")
    def _length(self) -> Training:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give one of steps and epochs, or neither")
        return self

    @model_validator(mode="after")
    def _decay(self) -> Training:
        optimizer = self.tables
        if optimizer.weight_decay and optimizer.kind == "sgd":
            raise ValueError(
                "tables.weight_decay needs tables.kind rowwise_adagrad, since the kernel of sgd "
                "applies none: set it to 0, or choose rowwise_adagrad"
            )
        return self

    @model_validator(mode="after")
    def _validates(self) -> Training:
        if self.validation is None or self.validation.metric is None:
            return self
        metric = self.validation.metric
        known = self.metric_names()
        if RANKING_METRIC.match(metric):
            if not self.ranks:
                raise ValueError(
                    f"validation.metric {metric} ranks items, which this stage does not learn: use "
                    f"{', '.join(known) or 'none'}, or leave validation out"
                )
        elif metric not in known:
            ranking = ["ndcg@K, hr@K, mrr@K"] if self.ranks else []
            raise ValueError(
                f"validation.metric '{metric}' is no metric of this stage, which has: "
                f"{', '.join([*ranking, *known]) or 'none'}"
            )
        return self

    @property
    @abstractmethod
    def learned(self) -> TaskSection:
        """The objective or task, which may have several parts."""

    def tasks(self) -> Mapping[str, TaskSection]:
        """The objectives or tasks by name; a single objective or task has the empty name."""
        return self.learned.parts()

    def metric_names(self) -> list[str]:
        """Names of the metrics of the tasks' predictions; with several tasks also
        ``task/metric``."""
        names = [metric for task in self.tasks().values() for metric in task.metrics]
        names += [f"{n}/{m}" for n, task in self.tasks().items() if n for m in task.metrics]
        return list(dict.fromkeys(names))

    @property
    def bidirectional(self) -> bool:
        """Whether the encoder must see both sides of a hidden position."""
        return any(task.sees == "both" for task in self.tasks().values())

    @property
    def validated_by(self) -> str | None:
        """The metric of the validations; None if there are none."""
        if self.validation is None:
            return None
        if self.validation.metric is not None:
            return self.validation.metric
        if self.private and self.validation.every is None:
            return None  # what a validation chooses is not private
        return "ndcg@10" if self.ranks else next(iter(self.metric_names()), None)

    def validating(
        self, evaluate: Evaluate | None, steps: int, *, there: bool
    ) -> Validating | None:
        """The validations; None if there are none.

        Args:
            evaluate: section of the job, which decides what is left out here.
            steps: of the stage.
            there: the data has a validation split.
        """
        section, metric, like = self.validation, self.validated_by, evaluate or Evaluate()
        if section is None or metric is None or (section.every is None and not there):
            return None
        return Validating(
            every=section.every or -(-steps // VALIDATIONS),
            users=section.users,
            metric=metric,
            mask_seen=like.mask_seen if section.mask_seen is None else section.mask_seen,
            targets=section.targets or like.targets,
            events=section.events or like.events,
            patience=section.patience,
            asked=section.every is not None,
        )

    @property
    def private(self) -> bool:
        """Whether the stage is differentially private."""
        return False

    @property
    def ranks(self) -> bool:
        """Whether the trained model ranks the items of the catalogue."""
        return any(task.ranks for task in self.tasks().values())

    @property
    def shuffled(self) -> bool:
        """Whether a task reads histories as sets instead of sequences."""
        return any(task.shuffled for task in self.tasks().values())


class Pretrain(Training):
    """Self-supervised training on histories without labels."""

    objective: Annotated[TaskSection, Chosen(OBJECTIVES, "causal")] = TaskSection(kind="causal")
    """The objective; causal if no kind is given."""

    @property
    def learned(self) -> TaskSection:
        return self.objective


class Finetune(Training):
    """Training on labelled interactions, from a pre-trained model."""

    task: Annotated[TaskSection, Chosen(TASKS)]
    init_from: str | None = "pretrain"
    """As in pretrain."""
    train: Literal["everything", "head", "adapters"] = "everything"
    """everything: all weights; head: only the task's own parameters, the backbone is frozen;
    adapters: the task's own parameters, the tables, and low-rank adapters of the encoder."""
    frozen_tables: bool = False
    """Freeze the tables of the backbone."""
    adapters: Adapters = Adapters()
    privacy: Privacy | None = None
    """User-level differential privacy of this stage; left out: none."""

    @property
    def private(self) -> bool:
        return self.privacy is not None

    @model_validator(mode="after")
    def _private(self) -> Finetune:
        if self.privacy is None:
            return self
        if self.non_finite.policy == "skip":
            raise ValueError(
                "non_finite.policy skip leaves out a step because of its data, which privacy does "
                "not cover: set it to stop"
            )
        for name, task in self.tasks().items():
            if task.not_private is not None:
                raise ValueError(
                    f"privacy needs a loss of each user that depends on nobody else, but in task"
                    f"{f'.tasks.{name}' if name else ''} {task.not_private}"
                )
        return self

    @model_validator(mode="after")
    def _own(self) -> Finetune:
        tasks = self.tasks().values()
        if self.train == "head" and not any(task.own_parameters for task in tasks):
            kinds = ", ".join(dict.fromkeys(task.kind for task in tasks))
            raise ValueError(
                f"train: head, but {kinds} has no parameters of its own to train: use everything "
                "or adapters"
            )
        return self

    @property
    def learned(self) -> TaskSection:
        return self.task
