"""The ranker of a stage: the model alone, or the model with item-to-item counts."""

from __future__ import annotations

from p5dist.config import RunConfig
from p5dist.inference.fitting import Fitted
from p5dist.ranking.interpolation import Mixture
from p5dist.ranking.topk import Ranker, VectorRanker, Vectors

MODEL, MODEL_ALONE = "model", "model_alone"


def model_ranker(job: RunConfig, model: Vectors, fitted: Fitted | None) -> Ranker:
    """The ranker that the section ``ranking`` of the job asks for.

    Args:
        fitted: may be None if ``ranking.item_to_item`` is 0.
    """
    alone = VectorRanker(model)
    share = job.ranking.item_to_item
    if not share:
        return alone
    assert fitted is not None
    return Mixture(alone, fitted.item_to_item, share)


def all_rankers(job: RunConfig, model: Vectors, fitted: Fitted) -> dict[str, Ranker]:
    """Rankers by name: the ranker of the job, the model alone if the ranking also uses counts, and
    the baselines."""
    ranker = model_ranker(job, model, fitted)
    found: dict[str, Ranker] = {MODEL: ranker}
    if isinstance(ranker, Mixture):
        found[MODEL_ALONE] = ranker.model
    baselines: tuple[Ranker, ...] = (fitted.popularity, fitted.item_to_item)
    return found | {baseline.name: baseline for baseline in baselines}
