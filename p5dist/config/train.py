"""The ``pretrain`` and ``finetune`` sections."""

from __future__ import annotations

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


class TableOptimizer(Section):
    """Optimizer of the embedding tables, fused into the backward pass (FBGEMM)."""

    kind: Literal["rowwise_adagrad", "sgd"] = "rowwise_adagrad"
    lr: PositiveFloat = 0.05
    weight_decay: NonNegativeFloat = 0.0


class DenseOptimizer(Section):
    """AdamW for everything that is not an embedding table."""

    lr: PositiveFloat = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the dense gradient; left empty: not clipped."""


class Schedule(Section):
    """Factor on both learning rates: a linear warm-up, then constant or falling."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 100
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Factor reached at the last step (linear and cosine)."""


class Checkpoints(Section):
    """When a checkpoint is written, and how many stay."""

    every: PositiveInt = 200
    """Steps between checkpoints; the last step always has one."""
    keep: PositiveInt = 2


class FullSoftmax(Section):
    """Cross-entropy over the whole catalogue."""

    kind: Literal["softmax"] = "softmax"


class SampledSoftmax(Section):
    """Cross-entropy over the positive and negatives shared by the global batch, with the logQ
    correction (Bengio and Senécal 2008; Yi et al. 2019); accidental hits are masked."""

    kind: Literal["sampled_softmax"]
    negatives: PositiveInt = 512
    distribution: Literal["uniform", "popularity"] = "popularity"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Popularity: an item is drawn in proportion to count^alpha."""


Loss = Annotated[FullSoftmax | SampledSoftmax, Field(discriminator="kind")]


class CausalObjective(Section):
    """Predict the next item at every position (GPT)."""

    kind: Literal["causal"] = "causal"
    loss: Loss = FullSoftmax()


class NextItemTask(Section):
    """Rank the next item; the loss is taken at every position."""

    kind: Literal["next_item"]
    loss: Loss = FullSoftmax()


class RatingTask(Section):
    """Predict the rating of the next interaction; squared error."""

    kind: Literal["rating"]
    user_table: bool = True
    """Give every user an embedding row of their own beside what the encoder reads from the
    history; needed for a bias of users whose history says little."""
    user_dim: PositiveInt = 32
    history: Literal["shuffled", "time"] = "shuffled"
    """shuffled: the encoder sees other interactions of the user in random order, whenever they
    were; time: those before the rated one. Ratings depend little on the order, and a test split
    at random asks for items from the middle of the history."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Of states, item and user vectors before the head."""


Task = Annotated[NextItemTask | RatingTask, Field(discriminator="kind")]


class Training(Section):
    """What pre-training and fine-tuning share."""

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    """Exactly one of steps and epochs."""
    batch_size: PositiveInt = 256
    """Histories per step over all workers together; a multiple of feed.lanes."""
    tables: TableOptimizer = TableOptimizer()
    dense: DenseOptimizer = DenseOptimizer()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoints = Checkpoints()
    log_every: PositiveInt = 10

    @model_validator(mode="after")
    def _length(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self


class Pretrain(Training):
    """Self-supervised training on histories without labels."""

    objective: CausalObjective = CausalObjective()


class Finetune(Training):
    """Training on labelled interactions, from a pre-trained model."""

    task: Task
    init_from: Literal["pretrain"] | None = "pretrain"
    """Where the weights start: this run's pretrain stage, or (empty) from scratch."""
