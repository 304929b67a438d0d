"""Skip-gram pre-training (word2vec): predict the items around an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from p5dist.config.losses import FullSoftmax, Loss
from p5dist.data import columns as c
from p5dist.tasks.skip_gram.pairs import SkipGrams, keep_rates
from p5dist.tasks.task import Context, Task, check_targets, target_weights

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule


class SkipGram(Task):
    """Predict the items around an item (word2vec, Mikolov et al. 2013). The encoder is not used:
    the vector of a user is a mean of item vectors, mapped to contexts."""

    ranks = True
    kind: Literal["skip_gram"]
    window: PositiveInt = 5
    """Largest number of items on each side, after subsampling; the number is drawn from 1…window
    for every centre."""
    subsample: Annotated[float, Field(ge=0)] = 1e-3
    """An item of relative frequency f stays with probability √(subsample / f); 0: all stay."""
    user_items: PositiveInt = 10
    """Number of last items of a history whose mean gives the vector of its user."""
    loss: Loss = FullSoftmax()

    @property
    def sees(self) -> None:
        return None

    @property
    def reads_states(self) -> bool:
        return False

    @property
    def catalogue_loss(self) -> Loss:
        return self.loss

    def check_data(self, context: Context, key: str) -> None:
        check_targets(context, key)

    def batch_fields(self, context: Context) -> SkipGrams:
        counts = (context.folder / "vocabulary/item.parquet").read_table([c.COUNT])
        return SkipGrams(
            self.window,
            keep_rates(self.subsample, counts[c.COUNT].to_numpy()),
            context.job.training_seed,
            target_weights(context.manifest),
        )

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.skip_gram.module import SkipGramModule

        model = context.job.model
        return SkipGramModule(
            self.loss,
            context.name,
            dim=model.dim,
            user_items=self.user_items,
            temperature=model.cosine_temperature,
        )
