"""What a training stage learns: objectives of pre-training and tasks of fine-tuning."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from p5dist.config.base import Section
from p5dist.config.losses import FullSoftmax, Loss

Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
EventWeights = dict[str, NonNegativeFloat]


class Head(Section):
    """An objective or a task."""

    kind: str
    ranks: ClassVar[bool] = False
    """Whether its model ranks the items of the catalogue."""

    @property
    def bidirectional(self) -> bool:
        """Whether the encoder must see both sides of a hidden position."""
        return False

    @property
    def shuffled(self) -> bool:
        """Whether it takes a history as a set and not as a sequence."""
        return False


class CausalObjective(Head):
    """Predict the next item at every position (GPT)."""

    ranks = True
    kind: Literal["causal"] = "causal"
    loss: Loss = FullSoftmax()


class MaskedObjective(Head):
    """Predict hidden items from both sides (cloze, BERT4Rec, Sun et al. 2019). Of the chosen
    positions 80 % are hidden, 10 % show another item, 10 % stay (Devlin et al. 2019)."""

    ranks = True
    kind: Literal["masked"]
    probability: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """That a position is chosen; a history of which none is chosen hides its last."""
    last_share: Share = 0.1
    """Share of the histories of a step that end at a random item and hide only that, as ranking
    hides the one to come."""
    loss: Loss = FullSoftmax()

    @property
    def bidirectional(self) -> bool:
        return True


class SkipGramObjective(Head):
    """Predict the items around an item (word2vec, Mikolov et al. 2013). The encoder takes no part:
    the vector of a user is a mean of item vectors."""

    ranks = True
    kind: Literal["skip_gram"]
    window: PositiveInt = 5
    """Items on each side, after subsampling; for every centre it is drawn from 1…window."""
    subsample: Annotated[float, Field(ge=0)] = 1e-3
    """An item of relative frequency f stays with probability √(subsample / f); 0: all stay."""
    user_items: PositiveInt = 10
    """The last items of a history whose mean is the vector of its user."""
    loss: Loss = FullSoftmax()


class AttributesObjective(Head):
    """Predict the attribute values of an item, each yes or no (S³-Rec, Zhou et al. 2020)."""

    kind: Literal["attributes"]
    attributes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names under prepare.items.attributes."""
    of: Literal["next", "masked", "item"] = "next"
    """next: of the next item, from the state before it; masked: of the items that a masked
    objective beside it hides (under kind: multi); item: of every item, from its own vector."""

    @property
    def bidirectional(self) -> bool:
        return self.of == "masked"


Objective = CausalObjective | MaskedObjective | SkipGramObjective | AttributesObjective


class MultiObjective(Head):
    """Several objectives at once."""

    kind: Literal["multi"]
    objectives: Annotated[
        dict[str, Annotated[Objective, Field(discriminator="kind")]], Field(min_length=1)
    ]
    weights: dict[str, PositiveFloat] | Literal["learned"] = {}
    """Factor on each loss, 1 where it is not named; learned: by the uncertainty of each (Kendall
    et al. 2018)."""

    @model_validator(mode="after")
    def _fit(self) -> MultiObjective:
        _check_parts(self.objectives, self.weights)
        masked = [n for n, o in self.objectives.items() if o.kind == "masked"]
        causal = [n for n, o in self.objectives.items()
                  if o.kind == "causal" or getattr(o, "of", None) == "next"]  # fmt: skip
        if masked and causal:
            raise ValueError(
                f"'{masked[0]}' needs an encoder that sees both sides, '{causal[0]}' one that "
                "sees the past only: keep one of them"
            )
        for name, objective in self.objectives.items():
            if objective.bidirectional and not masked:
                raise ValueError(f"'{name}' predicts of masked items: add a masked objective")
        return self


class NextItemTask(Head):
    """Rank the next item."""

    ranks = True
    kind: Literal["next_item"]
    by: Literal["causal", "masked"] = "causal"
    """causal: the loss is taken at every position, the encoder sees the past only; masked: every
    history ends at a random item, at each step another, which is hidden and predicted (fine-tuning
    of BERT4Rec), after a masked pre-training."""
    events: EventWeights | None = None
    """Weight of the targets of each event; those not named are no targets. Left out: the weights
    of prepare.events."""
    loss: Loss = FullSoftmax()

    @property
    def bidirectional(self) -> bool:
        return self.by == "masked"


class RatingTask(Head):
    """Predict the rating of the next interaction; squared error."""

    kind: Literal["rating"]
    score: Literal["dot", "mlp", "both"] = "both"
    """Mean rating plus, dot: biases of user and item and the product of their vectors; mlp: a
    network over both vectors; both: the sum of these."""
    user_table: bool = True
    """Give every user an embedding row of their own beside what the encoder reads from the
    history; needed for a bias of users whose history says little."""
    user_dim: PositiveInt = 32
    history: Literal["shuffled", "time"] = "shuffled"
    """shuffled: the encoder sees other interactions of the user in random order, whenever they
    were; time: those before the rated one. Ratings depend little on the order, and a test split
    at random asks for items from the middle of the history."""
    dropout: Probability = 0.2
    """Of states, item and user vectors before the head."""

    @property
    def shuffled(self) -> bool:
        return self.history == "shuffled"


class Dlrm(Section):
    """Products of all pairs of feature vectors (DLRM, Naumov et al. 2019)."""

    kind: Literal["dlrm"] = "dlrm"


class Dcn(Section):
    """Cross layers beside a deep network (DCN-V2, Wang et al. 2021)."""

    kind: Literal["dcn"]
    layers: PositiveInt = 3
    rank: PositiveInt | None = None
    """Of the matrix of a cross layer; left out: full."""


class ClickTask(Head):
    """Predict whether an interaction is a click, a conversion, a like: yes or no; log loss."""

    kind: Literal["click"]
    positive: tuple[str, ...] | None = None
    """Events that mean yes; all others mean no."""
    threshold: float | None = None
    """Ratings from here on mean yes, lower ones no; interactions without rating do not count."""
    negatives: NonNegativeInt = 0
    """Items drawn for every positive that the user has not had, as a no: for logs that hold
    positives only. Probabilities are then of this mixture, not of the log."""
    interaction: Annotated[Dlrm | Dcn, Field(discriminator="kind")] = Dlrm()
    dim: PositiveInt = 32
    """Width of the feature vectors."""
    hidden: tuple[PositiveInt, ...] = (64, 32)
    """Widths of the network on top."""
    state: bool = True
    """Read the state of the encoder before the item: the pre-trained vector of the user."""
    user_table: bool = True
    """Read an embedding row of the user's own and model.user_attributes."""
    dropout: Probability = 0.1
    """Of the feature vectors."""

    @model_validator(mode="after")
    def _label(self) -> ClickTask:
        if self.positive is not None and self.threshold is not None:
            raise ValueError("positive and threshold exclude each other: a label has one source")
        if self.positive is None and self.threshold is None and not self.negatives:
            raise ValueError(
                "nothing says what a no is: name the positive events, give a threshold of the "
                "rating, or set negatives"
            )
        return self


Task = NextItemTask | RatingTask | ClickTask


class MultiTask(Head):
    """Several tasks at once over one encoder."""

    kind: Literal["multi"]
    tasks: Annotated[dict[str, Annotated[Task, Field(discriminator="kind")]], Field(min_length=1)]
    weights: dict[str, PositiveFloat] | Literal["learned"] = {}
    """As for several objectives."""

    @model_validator(mode="after")
    def _fit(self) -> MultiTask:
        _check_parts(self.tasks, self.weights)
        for name, task in self.tasks.items():
            if task.shuffled:
                raise ValueError(
                    f"'{name}' shuffles histories, which the other tasks read in the order of "
                    f"time: set tasks.{name}.history to time"
                )
        if len({task.bidirectional for task in self.tasks.values()}) > 1:
            raise ValueError(
                "some tasks need an encoder that sees both sides, others one that sees the past "
                "only: set 'by' of next_item to causal"
            )
        return self


def _check_parts(parts: dict[str, Any], weights: dict[str, float] | str) -> None:
    """Weights name parts, and all parts compare with the same candidates."""
    if isinstance(weights, dict):
        for name in weights:
            if name not in parts:
                raise ValueError(f"weights names '{name}', not one of: {', '.join(parts)}")
    losses = {n: part.loss for n, part in parts.items() if hasattr(part, "loss")}
    first = next(iter(losses), "")
    for name, loss in losses.items():
        if loss != losses[first]:
            raise ValueError(
                f"'{name}' and '{first}' have different losses over the catalogue, whose "
                "candidates belong to the batch: give them the same loss"
            )
