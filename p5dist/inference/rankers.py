"""Which ranker a stage ranks with: the model alone, or the model and item-to-item counts."""

from __future__ import annotations

from p5dist.config import RunConfig
from p5dist.inference.fitting import Fitted
from p5dist.ranking.interpolation import Mixture
from p5dist.ranking.topk import Ranker, VectorRanker, Vectors

MODEL, MODEL_ALONE = "model", "model_alone"


def model_ranker(job: RunConfig, model: Vectors, fitted: Fitted | None) -> Ranker:
    """What ranks items for users, as ``ranking`` of the job says.

    Args:
        fitted: may be None where ``ranking.item_to_item`` is 0.
    """
    alone = VectorRanker(model)
    share = job.ranking.item_to_item
    if not share:
        return alone
    assert fitted is not None
    return Mixture(alone, fitted.item_to_item, share)


def all_rankers(job: RunConfig, model: Vectors, fitted: Fitted) -> dict[str, Ranker]:
    """By name: what ranks, the model alone where counts share the ranking, and the baselines."""
    ranker = model_ranker(job, model, fitted)
    found: dict[str, Ranker] = {MODEL: ranker}
    if isinstance(ranker, Mixture):
        found[MODEL_ALONE] = ranker.model
    baselines: tuple[Ranker, ...] = (fitted.popularity, fitted.item_to_item)
    return found | {baseline.name: baseline for baseline in baselines}
