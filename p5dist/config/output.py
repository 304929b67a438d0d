"""The ``ranking``, ``evaluate`` and ``report`` sections."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from p5dist.config.base import Section


class Ranking(Section):
    """How evaluate and recommend rank items; validation during training ignores the item-to-item
    counts."""

    item_to_item: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Share of the probability of the next item that comes from item-to-item counts of training;
    the rest comes from the model (as in kNN-LM, Khandelwal et al. 2020). auto: the share 0, 0.1, …
    0.9 with the best NDCG@10 on the validation split, under the protocol of evaluate; 0 without a
    validation split."""
    returns: bool | Literal["auto"] = "auto"
    """Whether the items of a history have the probability with which users came back to such items
    in training (by the event of the last interaction, and how many other items came since); model
    and item-to-item counts divide the rest. auto: if that is better on the validation split; never
    with evaluate.mask_seen, under which no own item is ranked."""
    counted: PositiveInt | None = 20_000_000
    """About the number of training interactions whose item pairs are counted, of users chosen at
    random; null: all. Counting takes 1.5 seconds of a core per million."""
    products: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: products of rounded vectors find two candidates for each item of a list, and
    products in float32 order them. Faster on processors with bfloat16 units; a list rarely misses
    an item, ranks of targets beyond the lists are not exact. Not together with item_to_item."""
    memory: PositiveFloat = 1.0
    """GiB that a scoring process may use for item vectors and for users that wait for the next pass
    over them. Item vectors that take more than half of it are read from disk in every pass. No
    result depends on it."""

    @model_validator(mode="after")
    def _exact_mixture(self) -> Ranking:
        mixed = [s for s in (self.item_to_item, self.returns) if s != "auto" and s]
        if self.products != "float32" and mixed:
            raise ValueError(
                "products: bfloat16 ranks by the model alone; set item_to_item to 0 and returns to "
                "false"
            )
        return self

    @property
    def open(self) -> bool:
        """Whether something is to be chosen on the validation split."""
        return "auto" in (self.item_to_item, self.returns)


Baseline = Literal[
    "popularity",
    "recent_popularity",
    "last_item",
    "last_event",
    "returns",
    "item_to_item",
    "ppmi_svd",
]


VECTORS = "vectors"
"""``evaluate.diversity_by``: the vectors of the model."""


class Evaluate(Section):
    """Exact ranking over the whole catalogue, and the metrics of the tasks."""

    BASELINES: ClassVar[tuple[str, ...]] = get_args(Baseline)

    split: Literal["validation", "test"] = "test"
    """Split whose interactions are the targets."""
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 10, 20)
    """Lengths of the lists that the metrics are computed for."""
    users: PositiveInt | None = None
    """Approximate number of evaluated users, always the same users (by a hash of seed and user);
    left out: all users."""
    mask_seen: bool = True
    """true: items that the user has had before cannot be ranked, and a target among them (a repeat)
    counts as a miss. false: all items are ranked."""
    targets: Literal["all", "new"] = "all"
    """new: repeats (targets that the user has had before) are left out and counted."""
    events: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Events whose held-out interactions are targets; left out: the events that
    prepare.split.events holds out, or all."""
    batch_size: PositiveInt = 512
    """Histories that a scoring process encodes at once."""
    ranking_from: str | None = None
    """Stage whose model ranks; left out: the last training stage that ranks items."""
    baselines: tuple[Baseline, ...] | None = None
    """Rankers without training to compare with; left out: all of these that the log and the
    protocol have a use for. popularity: items by training interactions; recent_popularity: of the
    last recent_days of training; last_item, last_event: the user's own items again, the latest
    first (of each event), returns: by how often users came back to such an item, all three with
    mask_seen: false; item_to_item: what followed the last items;
    ppmi_svd: factors of item pairs."""
    recent_days: PositiveInt = 7
    """Days of recent_popularity, up to the last training interaction."""
    bootstrap: NonNegativeInt = 1000
    """Resamples of the users for the 95 % confidence intervals; 0: no intervals."""
    diversity_by: str | None = VECTORS
    """Distance of two listed items in diversity@k. vectors: 1 - cosine of the model's item vectors;
    the name of an item attribute: Jaccard distance of the values; null: no diversity."""
    segments_by: tuple[str, ...] | None = None
    """Item attributes by whose values metrics are also shown; left out: all with at most 30
    values."""

    def named_attributes(self) -> list[tuple[str, str]]:
        """Name of the setting and of the attribute, for every item attribute that is named."""
        found = [("segments_by", name) for name in self.segments_by or ()]
        by = self.diversity_by
        return found if by is None or by == VECTORS else [*found, ("diversity_by", by)]


class Report(Section):
    """One HTML page about the run."""

    users: NonNegativeInt = 5
    """Number of users shown with their history and their recommendations."""
